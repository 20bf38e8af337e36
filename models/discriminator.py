"""StyleGAN2 discriminator in the key layout of the released checkpoints.

Shape legend: B batch, C channels, H/W rows/columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import EPSILON, EqualConv, EqualLinear, Resample
from models.stylegan2 import check_channels

STDDEV_GROUP = 4


class FusedLeakyReLU(nn.Module):
    """Add a bias, then leaky ReLU times sqrt(2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Keep the shape."""
        return F.leaky_relu_(x_BCHW + self.bias[:, None, None], 0.2) * math.sqrt(2)


class Blur(Resample):
    """Low-pass before a stride-2 convolution; `pad` keeps that convolution's output at half size."""

    def __init__(self, *, pad: int) -> None:
        super().__init__(gain=1.0)
        self.pad = pad

    def forward(self, x_BCHW: Tensor, *, pad: int | None = None) -> Tensor:
        """Blur with this module's own padding unless another is given."""
        return super().forward(x_BCHW, pad=self.pad if pad is None else pad)


class ResidualBlock(nn.Module):
    """Halve the resolution: two 3x3 convolutions beside a 1x1 skip, summed and divided by sqrt(2)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(EqualConv(n_in, n_in, 3, padding=1), FusedLeakyReLU(n_in))
        self.conv2 = nn.Sequential(Blur(pad=2), EqualConv(n_in, n_out, 3, stride=2), FusedLeakyReLU(n_out))
        self.skip = nn.Sequential(Blur(pad=1), EqualConv(n_in, n_out, 1, stride=2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H/2, W/2)."""
        return (self.conv2(self.conv1(x_BCHW)) + self.skip(x_BCHW)) / math.sqrt(2)


class Discriminator(nn.Module):
    """Score images: higher is more real. `channels` as for the Generator. Raises ValueError for sizes that do not fit."""

    def __init__(self, size: int = 1024, *, channels: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.size = size
        self.channels = check_channels(size, channels)
        widths = [self.channels[resolution] for resolution in sorted(self.channels, reverse=True)]
        first = nn.Sequential(EqualConv(3, widths[0], 1), FusedLeakyReLU(widths[0]))
        self.convs = nn.Sequential(first, *(ResidualBlock(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)))
        last = widths[-1]
        self.final_conv = nn.Sequential(EqualConv(last + 1, last, 3, padding=1), FusedLeakyReLU(last))
        self.final_linear = nn.Sequential(EqualLinear(last * 16, last, activate=True), EqualLinear(last, 1))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return scores (B, 1) of RGB images in [-1, 1]; B must be at most 4 or divisible by 4."""
        if image_BCHW.shape[1:] != (3, self.size, self.size):
            raise ValueError(f"discriminator: expected images (B, 3, {self.size}, {self.size}), found {tuple(image_BCHW.shape)}")
        x = self.convs(image_BCHW.contiguous(memory_format=torch.channels_last))
        x = self.final_conv(torch.cat([x, _spread(x)], dim=1))
        return self.final_linear(x.contiguous().flatten(1))


class FeatureHeads(nn.Module):
    """Score the places of a frozen network's feature maps, with one small convolutional head per depth (Projected GANs).

    Source: Sauer et al. 2021. Differs: maps are normalised to unit-variance vectors in place of random projections, and the heads are
    equalised in place of spectral norm.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                EqualConv(n_in, width, 1), FusedLeakyReLU(width), EqualConv(width, width, 3, padding=1), FusedLeakyReLU(width),
                EqualConv(width, 1, 1),
            )
            for n_in in channels
        )  # fmt: skip

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return scores (B, N) of maps (B, C, H, W), every depth with as much weight: its places repeat up to those of the finest."""
        finest = maps[0].shape[-2:]
        scores = [head(F.normalize(x, dim=1) * math.sqrt(x.shape[1])) for head, x in zip(self.heads, maps, strict=True)]
        return torch.cat([F.interpolate(score, size=finest, mode="nearest").flatten(1) for score in scores], 1)


class LatentDiscriminator(nn.Module):
    """Score how much latents look like those of the mapping network, in the layout of e4e's training files (e4e section 3.2)."""

    def __init__(self, style_dim: int = 512, n_mlp: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(n_mlp - 1):
            layers += [nn.Linear(style_dim, style_dim), nn.LeakyReLU(0.2)]
        self.mlp = nn.Sequential(*layers, nn.Linear(style_dim, 1))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, w_BD: Tensor) -> Tensor:
        """Return scores (B, 1)."""
        score: Tensor = self.mlp(w_BD)
        return score


def _spread(x_BCHW: Tensor) -> Tensor:
    """Return the mean standard deviation over groups of samples as one extra channel (B, 1, H, W)."""
    batch, _, height, width = x_BCHW.shape
    group = min(batch, STDDEV_GROUP)
    if batch % group:
        raise ValueError(f"discriminator: the batch must be at most {STDDEV_GROUP} or divisible by it, found {batch}")
    grouped = x_BCHW.reshape(group, batch // group, *x_BCHW.shape[1:])
    spread = (grouped.var(dim=0, unbiased=False) + EPSILON).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat(group)[:, None, None, None].expand(batch, 1, height, width)
