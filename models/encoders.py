"""Encoders from images to latents: e4e into W+ and the W encoder, in the released key layouts.

Both return residuals: an inverter adds the mean latent. Shape legend: B batch, C channels, L latent slots, D style width, H/W rows/columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import irse
from models.layers import EqualLinear, PictureSize, check_picture, longest

COARSE_SLOTS = 3  # slots 0-2 read the deepest feature map, 3-6 the middle one, the rest the finest
MIDDLE_SLOTS = 7
Maps = tuple[Tensor, Tensor, Tensor]
"""Feature maps of a trunk after its second, third and fourth stage, finest first."""


class GradualStyleBlock(nn.Module):
    """Shrink a square feature map of `side` pixels to one style vector by stride-2 convolutions and a linear map."""

    def __init__(self, n_in: int, style_dim: int, *, width: int, side: int) -> None:
        super().__init__()
        if side < 2 or side & (side - 1):
            raise ValueError(f"style block: its feature map must have a side of 2, 4, 8 ... pixels, found {side}")
        layers: list[nn.Module] = []
        for step in range(int(math.log2(side))):
            layers += [nn.Conv2d(n_in if step == 0 else width, width, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(width, style_dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, D)."""
        style: Tensor = self.linear(self.convs(x_BCHW).flatten(1))
        return style


class Encoder4Editing(nn.Module):
    """Map images to W+ residuals: slot 0 is one w for all, every other slot adds its own small difference (e4e).

    `size` is the generator's, `input_size` the encoder's own; `style_width` is the inner width of the style blocks (None: `style_dim`).
    Raises ValueError when the sizes do not fit.
    """

    def __init__(
        self,
        size: int = 1024,
        *,
        input_size: PictureSize = 256,
        style_dim: int = 512,
        widths: Sequence[int] = irse.WIDTHS,
        depths: Sequence[int] = irse.DEPTHS,
        style_width: int | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.n_styles = 2 * int(math.log2(size)) - 2
        self.input_layer = irse.input_layer(widths[0])
        self.body = irse.body(widths, depths)
        # Where the three maps leave the body: after its second, third and fourth stage.
        self.taps = tuple(sum(depths[: stage + 1]) - 1 for stage in (1, 2, 3))
        width = style_width or style_dim
        side = longest(input_size)
        sides = [side // 16] * COARSE_SLOTS + [side // 8] * (MIDDLE_SLOTS - COARSE_SLOTS) + [side // 4] * self.n_styles
        self.styles = nn.ModuleList(GradualStyleBlock(widths[3], style_dim, width=width, side=side) for side in sides[: self.n_styles])
        self.latlayer1 = nn.Conv2d(widths[2], widths[3], 1)
        self.latlayer2 = nn.Conv2d(widths[1], widths[3], 1)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, image_BCHW: Tensor, *, stage: int | None = None) -> Tensor:
        """Return residuals (B, L, D) of RGB images in [-1, 1] at `input_size`.

        `stage` is the progressive training stage: slots after it keep the shared w; None is the last stage, inference.
        """
        return self.codes(self.maps(image_BCHW), stage=stage)

    def codes(self, maps: Maps, *, stage: int | None = None) -> Tensor:
        """Return residuals (B, L, D) of feature maps as `maps` returns them, which CLIPInverter changes in between."""
        last = self.n_styles - 1 if stage is None else min(stage, self.n_styles - 1)
        shared, *own = self.slots(maps, n=last + 1)
        codes = [shared, *(shared + style for style in own)]
        codes += [shared] * (self.n_styles - len(codes))
        return torch.stack(codes, dim=1)

    def slots(self, maps: Maps, *, n: int) -> list[Tensor]:
        """Return what the first `n` style blocks say, (B, D) each: slots 0-2 of the deepest feature map, later ones of finer ones."""
        c1, c2, c3 = maps
        feature, found = c3, []
        for slot in range(n):
            if slot == COARSE_SLOTS:
                feature = p2 = _enlarged(c3, c2) + self.latlayer1(c2)
            elif slot == MIDDLE_SLOTS:
                feature = _enlarged(p2, c1) + self.latlayer2(c1)
            found.append(self.styles[slot](feature))
        return found

    def maps(self, image_BCHW: Tensor) -> Maps:
        """Return the trunk's feature maps after its second, third and fourth stage, finest first."""
        check_picture("e4e", image_BCHW, self.input_size)
        x = self.input_layer(image_BCHW.contiguous(memory_format=torch.channels_last))
        maps: list[Tensor] = []
        for number, block in enumerate(self.body):
            x = block(x)
            if number in self.taps:
                maps.append(x)
        c1, c2, c3 = maps
        return c1, c2, c3


class PspEncoder(Encoder4Editing):
    """Map images to W+ residuals, every slot by itself (pSp's GradualStyleEncoder): the layout of e4e without its shared w."""

    def codes(self, maps: Maps, *, stage: int | None = None) -> Tensor:
        """Return residuals (B, L, D) of feature maps."""
        if stage is not None:
            raise ValueError(f"pSp: has no progressive stages, found stage={stage}; those are e4e's")
        return torch.stack(self.slots(maps, n=self.n_styles), dim=1)


class WEncoder(nn.Module):
    """Map images to residuals in W: one w, repeated in every slot."""

    def __init__(
        self,
        size: int = 1024,
        *,
        input_size: PictureSize = 256,
        style_dim: int = 512,
        widths: Sequence[int] = irse.WIDTHS,
        depths: Sequence[int] = irse.DEPTHS,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.n_styles = 2 * int(math.log2(size)) - 2
        self.input_layer = irse.input_layer(widths[0])
        self.body = irse.body(widths, depths)
        self.linear = EqualLinear(widths[3], style_dim)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return residuals (B, L, D), equal in all slots, of RGB images in [-1, 1] at `input_size`."""
        check_picture("W encoder", image_BCHW, self.input_size)
        x = self.body(self.input_layer(image_BCHW.contiguous(memory_format=torch.channels_last)))
        w: Tensor = self.linear(x.mean(dim=(2, 3)))
        return w[:, None].expand(-1, self.n_styles, -1)


def _enlarged(x_BCHW: Tensor, like_BCHW: Tensor) -> Tensor:
    return F.interpolate(x_BCHW, size=like_BCHW.shape[2:], mode="bilinear", align_corners=True)
