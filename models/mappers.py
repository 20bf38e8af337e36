"""StyleCLIP's latent mappers in the released key layout: from latents, or styles, to their change under one text.

Shape legend: B batch, L latent slots, D style width, C channels of one style. Source: StyleCLIP section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from models.layers import EPSILON, EqualLinear

SHARE = 0.1
"""Of a mapper's output that an edit adds to the latents (StyleCLIP section 5, HairCLIP section 3.2)."""
DEPTH = 4
COARSE, MEDIUM = 4, 8  # slots 0-3 are coarse, 4-7 medium, the rest fine
LEVELS = ("course", "medium", "fine")
"""As the released files spell them."""


class _SlotNorm(nn.Module):
    """Divide by the root mean square along dimension 1: the slots of latents (a quirk of the release), the channels of a style."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(dim=1, keepdim=True) + EPSILON).rsqrt()


class Mapper(nn.Module):
    """Normalise and apply four equalised linear maps with leaky ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mapping = nn.Sequential(_SlotNorm(), *(EqualLinear(width, width, lr_mul=0.01, activate=True) for _ in range(DEPTH)))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, L, D) or (B, C)."""
        out: Tensor = self.mapping(x)
        return out


class SingleMapper(nn.Module):
    """One mapper for all slots; the edit is `w + 0.1 * mapper(w)`."""

    def __init__(self, *, style_dim: int = 512) -> None:
        super().__init__()
        self.mapping = Mapper(style_dim)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, latents_BLD: Tensor) -> Tensor:
        """Return the change (B, L, D)."""
        change: Tensor = self.mapping(latents_BLD)
        return change


class LevelsMapper(nn.Module):
    """A mapper each for coarse, medium and fine slots; levels that are left out change nothing. The edit is `w + 0.1 * mapper(w)`."""

    def __init__(self, *, style_dim: int = 512, levels: Sequence[str] = LEVELS) -> None:
        super().__init__()
        unknown = sorted(set(levels) - set(LEVELS))
        if unknown:
            raise ValueError(f"levels mapper: expected levels among {', '.join(LEVELS)}, found {unknown[0]!r}")
        self.levels = tuple(levels)
        for level in self.levels:
            self.add_module(f"{level}_mapping", Mapper(style_dim))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, latents_BLD: Tensor) -> Tensor:
        """Return the change (B, L, D)."""
        parts = (latents_BLD[:, :COARSE], latents_BLD[:, COARSE:MEDIUM], latents_BLD[:, MEDIUM:])
        changes = [
            self.get_submodule(f"{level}_mapping")(part) if level in self.levels else torch.zeros_like(part)
            for level, part in zip(LEVELS, parts, strict=True)
        ]
        return torch.cat(changes, dim=1)


class MapperSet(nn.Module):
    """One mapper of levels for each of several target texts, trained beside one another (StyleCLIP trains one per text)."""

    def __init__(self, *, texts: Sequence[str], style_dim: int = 512, levels: Sequence[str] = LEVELS) -> None:
        super().__init__()
        if not texts or len(set(texts)) != len(texts):
            raise ValueError(f"mapper set: expected texts that differ, found {list(texts)}")
        self.texts = tuple(texts)
        self.mappers = nn.ModuleList(LevelsMapper(style_dim=style_dim, levels=levels) for _ in texts)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, latents_BLD: Tensor, which_B: Tensor) -> Tensor:
        """Return the change (B, L, D) of each sample's latents by the mapper of its text, an index into `texts`."""
        change = torch.zeros_like(latents_BLD)
        for which in which_B.unique().tolist():
            rows = (which_B == which).nonzero().flatten()
            change = change.index_copy(0, rows, self.mappers[which](latents_BLD[rows]).to(change.dtype))
        return change


class StyleSpaceMapper(nn.Module):
    """A mapper for the style of every convolution; `rgb` names the output indices that have none, toRGB in the release.

    `widths` are those of the styles in output order.
    """

    def __init__(self, *, widths: Sequence[int], rgb: Sequence[int]) -> None:
        super().__init__()
        self.indices = tuple(index for index in range(len(widths)) if index not in set(rgb))
        for index in self.indices:
            self.add_module(f"mapper_{index}", Mapper(widths[index]))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, styles: Sequence[Tensor]) -> list[Tensor]:
        """Return the change of every style (B, C), zero where there is no mapper."""
        return [
            self.get_submodule(f"mapper_{index}")(style) if index in self.indices else torch.zeros_like(style)
            for index, style in enumerate(styles)
        ]
