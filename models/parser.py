"""A face parser: which part of a face every pixel belongs to, and the feature maps that GANI's parsing loss compares.

Shape legend: B batch, P parts, C channels, H/W rows/columns. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.perception import resized


class _Pair(nn.Sequential):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(),
        )  # fmt: skip


class FaceParser(nn.Module):
    """A U-Net (Ronneberger et al. 2015): `widths` are those of the contracting path, five levels in GANI; `parts` names the classes.

    Raises ValueError for a size that the levels cannot halve.
    """

    def __init__(self, *, parts: Sequence[str], size: int = 64, widths: Sequence[int] = (16, 24, 32, 48, 64)) -> None:
        super().__init__()
        if size % 2 ** (len(widths) - 1):
            raise ValueError(f"face parser: {len(widths)} levels need a size that is a multiple of {2 ** (len(widths) - 1)}, found {size}")
        self.size = size
        self.parts = tuple(parts)
        self.down = nn.ModuleList(_Pair(n_in, n_out) for n_in, n_out in zip((3, *widths), widths, strict=False))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(_Pair(low + skip, skip) for low, skip in pairs)
        self.head = nn.Conv2d(widths[0], len(self.parts), 1)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the `config` of a pack entry."""
        return cls(**config)  # type: ignore[arg-type]

    def features(self, image_BCHW: Tensor) -> list[Tensor]:
        """Return the feature maps of the contracting path, finest first, of pictures of any size (GANI eq. 1, last term)."""
        x, found = resized(image_BCHW, self.size), []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            found.append(x)
        return found

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, P, H, W) at the parser's size."""
        maps = self.features(image_BCHW)
        x = maps.pop()
        for block in self.up:
            skip = maps.pop()
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False), skip], dim=1))
        out: Tensor = self.head(x)
        return out
