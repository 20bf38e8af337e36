"""HairCLIP's mapper, for any attribute: from latents to their change, modulated by a text's (or a picture's) CLIP embedding.

Shape legend: B batch, L latent slots, D style width, E embedding. Source: HairCLIP section 3.2, eq. 2 to 4. Differs: one condition
modulates all three levels (HairCLIP has two, hair style for coarse and medium slots and colour for fine ones).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import PixelNorm
from models.mappers import COARSE, MEDIUM, SHARE

DEPTH = 5


class Modulation(nn.Module):
    """Linear map, layer norm scaled and shifted by the condition, leaky ReLU (HairCLIP eq. 4)."""

    def __init__(self, width: int, text_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.gamma, self.beta = (
            nn.Sequential(nn.Linear(text_dim, width), nn.LayerNorm(width), nn.LeakyReLU(), nn.Linear(width, width)) for _ in range(2)
        )

    def forward(self, x_BLD: Tensor, condition_B1E: Tensor) -> Tensor:
        """Keep the shape."""
        return F.leaky_relu(self.norm(self.fc(x_BLD)) * (1 + self.gamma(condition_B1E)) + self.beta(condition_B1E), 0.2)


class _Level(nn.Module):
    def __init__(self, width: int, text_dim: int) -> None:
        super().__init__()
        self.norm = PixelNorm()
        self.blocks = nn.ModuleList(Modulation(width, text_dim) for _ in range(DEPTH))

    def forward(self, x_BLD: Tensor, condition_B1E: Tensor) -> Tensor:
        x = self.norm(x_BLD.flatten(0, 1)).view_as(x_BLD)
        for block in self.blocks:
            x = block(x, condition_B1E)
        return x


class HairClipMapper(nn.Module):
    """Change latents as a CLIP embedding asks, by a mapper each for coarse, medium and fine slots."""

    def __init__(self, *, style_dim: int = 512, text_dim: int = 512) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_Level(style_dim, text_dim) for _ in range(3))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, latents_BLD: Tensor, embedding_BE: Tensor) -> Tensor:
        """Return the change (B, L, D); `embedding_BE` (B or 1 rows) is a raw embedding, of which only the direction counts."""
        condition = F.normalize(embedding_BE, dim=1)[:, None] * embedding_BE.shape[1] ** 0.5
        parts = (latents_BLD[:, :COARSE], latents_BLD[:, COARSE:MEDIUM], latents_BLD[:, MEDIUM:])
        return SHARE * torch.cat([level(part, condition) for level, part in zip(self.levels, parts, strict=True)], 1)
