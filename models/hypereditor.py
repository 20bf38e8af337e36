"""HyperEditor's hypernetwork: from an inversion and a text direction to weight offsets of the generator, in the released key layout.

Shape legend: B batch, C channels, H/W rows/columns, E text embedding, F head features, O/I output/input channels of a generator
convolution, k kernel width of an offset. Source: HyperEditor eq. 1 (heads) and eq. 5 (fusion modulation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from models.encoders import check_input
from models.stylegan2 import Layer, check_channels, layer_table

WIDTHS = (64, 128, 256, 512)
DEPTHS = (3, 4, 6, 3)
FIRST_OFFSET_GAIN = 0.1  # small first offsets: training starts from the inversion instead of from noise


class BasicBlock(nn.Module):
    """ResNet's basic block: two 3x3 convolutions with batch norm beside a shortcut, ReLU after the sum."""

    def __init__(self, n_in: int, n_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H/stride, W/stride)."""
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        y = self.bn2(self.conv2(self.bn1(self.conv1(x_BCHW)).relu_()))
        out: Tensor = (y + shortcut).relu_()
        return out


class TextScale(nn.Module):
    """Map a text direction to one non-negative factor per channel: linear, ReLU."""

    def __init__(self, text_dim: int, channels: int, *, start: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(text_dim, channels)
        nn.init.constant_(self.linear1.bias, start)

    def forward(self, direction_BE: Tensor) -> Tensor:
        """Return (B, C, 1, 1)."""
        factor: Tensor = self.linear1(direction_BE).relu()
        return factor[:, :, None, None]


class SeparableKernel(nn.Module):
    """Make an offset (B, O, I, k, k) from features: an outer product per kernel position, then a linear map along I and one along O.

    With no activation between them the two last maps act on the factors, so `offset = b a^T + c d^T + e 1^T` per position, exactly:
    vectors of length I and O instead of two matrix products per sample. `plain` is the same by the definition.
    """

    def __init__(self, features: int, layer: Layer, *, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.make_kernel_in = nn.Linear(features, layer.in_channels * kernel_size**2)
        self.make_kernel_out = nn.Linear(features, layer.out_channels * kernel_size**2)
        self.kernel_linear_in = nn.Linear(layer.in_channels, layer.in_channels)
        self.kernel_linear_out = nn.Linear(layer.out_channels, layer.out_channels)
        with torch.no_grad():
            self.kernel_linear_out.weight.mul_(FIRST_OFFSET_GAIN)
            self.kernel_linear_in.bias.zero_()
            self.kernel_linear_out.bias.zero_()

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return the offset (B, O, I, k, k)."""
        a, b = self._factors(features_BF)
        along_in, along_out = self.kernel_linear_in, self.kernel_linear_out
        a = a @ along_in.weight.T
        b = b @ along_out.weight.T
        constant = torch.outer(along_out.weight.sum(dim=1), along_in.bias) + along_out.bias[:, None]
        offset = torch.einsum("byxo,byxi->boiyx", b, a) + constant[:, :, None, None]
        return offset

    def plain(self, features_BF: Tensor) -> Tensor:
        """Return the same offset by the definition, as the reference of `forward`."""
        a, b = self._factors(features_BF)
        kernel = self.kernel_linear_in(b[..., :, None] * a[..., None, :])
        kernel = self.kernel_linear_out(kernel.transpose(-1, -2))
        return kernel.permute(0, 4, 3, 1, 2)

    def _factors(self, features_BF: Tensor) -> tuple[Tensor, Tensor]:
        k = self.kernel_size
        return self.make_kernel_in(features_BF).unflatten(1, (k, k, -1)), self.make_kernel_out(features_BF).unflatten(1, (k, k, -1))


class ColourKernel(nn.Conv2d):
    """Make an offset (B, 3, I, 1, 1) of a toRGB layer by one linear map, stored as a 1x1 convolution."""

    def __init__(self, features: int, layer: Layer) -> None:
        super().__init__(features, layer.out_channels * layer.in_channels, 1)
        self.shape = (layer.out_channels, layer.in_channels, 1, 1)
        with torch.no_grad():
            self.weight.mul_(FIRST_OFFSET_GAIN)
            assert self.bias is not None
            self.bias.zero_()

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return the offset (B, 3, I, 1, 1)."""
        out: Tensor = super().forward(features_BF[:, :, None, None])
        return out.reshape(-1, *self.shape)


class Head(nn.Module):
    """Shrink the trunk's feature map to a vector by stride-2 convolutions and turn it into the offset of one layer."""

    def __init__(self, features: int, layer: Layer, *, inner: int, side: int, kernel_size: int) -> None:
        super().__init__()
        steps = int(math.log2(side))
        widths = [features] + [inner] * (steps - 1) + [features]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            conv = nn.Conv2d(n_in, n_out, 3, 2, 1)
            nn.init.kaiming_normal_(conv.weight, a=0.01)
            layers += [conv, nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        rgb = layer.kind == "rgb"
        self.output = nn.Sequential(ColourKernel(features, layer) if rgb else SeparableKernel(features, layer, kernel_size=kernel_size))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the offset of this head's layer."""
        offset: Tensor = self.output(self.convs(x_BCHW).flatten(1))
        return offset


class HyperEditor(nn.Module):
    """Predict weight offsets for the generator layers `layers` (output indices; None: every layer but toRGB).

    `size` and `channels` are the generator's. `input_size` is the side of the pictures that `forward` takes; `inner` the inner width of
    the heads; `kernel_size` 1 is the released form (one factor per channel pair), 3 the paper's. Raises ValueError on values that do
    not fit together.
    """

    def __init__(
        self,
        size: int = 1024,
        *,
        channels: Mapping[int, int] | None = None,
        layers: Sequence[int] | None = None,
        kernel_size: int = 1,
        input_size: int = 256,
        text_dim: int = 512,
        widths: Sequence[int] = WIDTHS,
        depths: Sequence[int] = DEPTHS,
        inner: int = 256,
    ) -> None:
        super().__init__()
        if kernel_size not in (1, 3):
            raise ValueError(f"hypereditor: kernel_size must be 1 (released weights) or 3 (paper), found {kernel_size}")
        if input_size < 32 or input_size & (input_size - 1):
            raise ValueError(f"hypereditor: input_size must be a power of two from 32 up, found {input_size}")
        self.input_size = input_size
        self.text_dim = text_dim
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.PReLU(widths[0])
        self.body = _trunk(widths, depths)
        self.fc_gamma = TextScale(text_dim, widths[-1], start=1.0)
        self.fc_beta = TextScale(text_dim, widths[-1], start=0.0)
        self.tuned = _tuned(layer_table(size, check_channels(size, channels)), layers)
        self.hypernetworks = nn.ModuleDict(
            {str(layer.index): Head(widths[-1], layer, inner=inner, side=input_size // 16, kernel_size=kernel_size) for layer in self.tuned}
        )

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(
        self, reconstruction_BCHW: Tensor, direction_BE: Tensor | None, *, layers: Sequence[int] | None = None
    ) -> dict[int, Tensor]:
        """Return the offset (B, O, I, k, k) of every tuned layer, or of those in `layers`, by output index.

        `reconstruction_BCHW` is the inversion, RGB in [-1, 1], pooled to `input_size`; `direction_BE` (one row is used for the whole
        batch) is the raw text embedding of the target minus that of the source; None skips the modulation.
        """
        check_input("hypereditor", reconstruction_BCHW, self.input_size)
        x = self.relu(self.bn1(self.conv1(reconstruction_BCHW.contiguous(memory_format=torch.channels_last))))
        x = self.body(x)
        if direction_BE is not None:
            if direction_BE.ndim != 2 or direction_BE.shape[1] != self.text_dim:
                raise ValueError(f"hypereditor: expected text directions (B or 1, {self.text_dim}), found {tuple(direction_BE.shape)}")
            x = x * self.fc_gamma(direction_BE) + self.fc_beta(direction_BE)
        return {index: self.hypernetworks[str(index)](x) for index in self._chosen(layers)}

    def _chosen(self, layers: Sequence[int] | None) -> list[int]:
        tuned = [layer.index for layer in self.tuned]
        unknown = [index for index in layers or () if index not in tuned]
        if unknown:
            raise ValueError(f"hypereditor: layer {unknown[0]} has no head; tuned layers are {tuned}")
        return tuned if layers is None else list(layers)


def _trunk(widths: Sequence[int], depths: Sequence[int]) -> nn.Sequential:
    if not len(widths) == len(depths) == 4 or min(*widths, *depths) < 1:
        raise ValueError(f"hypereditor: expected four widths and four depths, found widths {list(widths)}, depths {list(depths)}")
    blocks: list[nn.Module] = []
    n_in = widths[0]
    for stage, (n_out, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(depth):
            blocks.append(BasicBlock(n_in, n_out, stride=2 if stage > 0 and block == 0 else 1))
            n_in = n_out
    for module in nn.Sequential(*blocks).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(*blocks)


def _tuned(table: Sequence[Layer], layers: Sequence[int] | None) -> tuple[Layer, ...]:
    chosen = [layer.index for layer in table if layer.kind == "conv"] if layers is None else sorted(set(layers))
    unknown = [index for index in chosen if not 0 <= index < len(table)]
    if unknown or not chosen:
        raise ValueError(f"hypereditor: layers must be output indices from 0 to {len(table) - 1}, found {list(layers or ())}")
    return tuple(table[index] for index in chosen)
