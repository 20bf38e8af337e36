"""The networks that the authors' losses see pictures through: ArcFace IR-SE50 (faces) and MoCo v2 ResNet-50 (everything else).

Shape legend: B batch, C channels, H/W rows/columns, E embedding. Pictures are RGB in [-1, 1], with no other normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import irse

POOLED = 256
CROP = (slice(35, 223), slice(32, 220))
"""Rows and columns of the face in an FFHQ-aligned picture of 256 pixels."""
ARCFACE_SIDE, MOCO_SIDE = 112, 224


class ArcFace(nn.Module):
    """Embed an aligned face (ArcFace on IR-SE50, TreB1eN's layout, with the head of 7x7 maps)."""

    def __init__(self, *, widths: Sequence[int] = irse.WIDTHS, depths: Sequence[int] = irse.DEPTHS, embed_dim: int = 512) -> None:
        super().__init__()
        self.input_layer = irse.input_layer(widths[0])
        self.body = irse.body(widths, depths)
        side = ARCFACE_SIDE // 16
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[3]), nn.Dropout(0.6), nn.Flatten(),
            nn.Linear(widths[3] * side * side, embed_dim), nn.BatchNorm1d(embed_dim),
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return L2-normalised embeddings (B, E) of FFHQ-aligned pictures of any size: pooled to 256, cropped, pooled to 112."""
        if image_BCHW.shape[-2:] != (POOLED, POOLED):
            image_BCHW = F.adaptive_avg_pool2d(image_BCHW, (POOLED, POOLED))
        return self.embed(F.adaptive_avg_pool2d(image_BCHW[:, :, CROP[0], CROP[1]], (ARCFACE_SIDE, ARCFACE_SIDE)))

    def embed(self, face_BCHW: Tensor) -> Tensor:
        """Return L2-normalised embeddings (B, E) of face crops of 112 pixels."""
        return F.normalize(self.output_layer(self.body(self.input_layer(face_BCHW))), dim=1)


class MoCo(nn.Module):
    """Embed any picture by MoCo v2's ResNet-50 without its last linear map, in torchvision's key layout."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50  # imported here: torchvision costs seconds, and few packs hold this network

        trunk = resnet50(weights=None)
        for name, child in trunk.named_children():
            if name != "fc":
                self.add_module(name, child)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores: none."""
        return cls(**config)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return L2-normalised embeddings (B, 2048); pictures are resized to 224 by their nearest pixels, as the release does."""
        x = F.interpolate(image_BCHW, size=(MOCO_SIDE, MOCO_SIDE))
        for child in self.children():
            x = child(x)
        return F.normalize(torch.flatten(x, 1), dim=1)
