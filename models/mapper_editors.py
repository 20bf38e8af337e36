"""Editors that map latents to their change: StyleCLIP's latent mapper and HairCLIP's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch

from models.hairclip import HairClipMapper
from models.instruction import Instruction
from models.inversion import Inversion
from models.mappers import SHARE, MapperSet
from models.reference import wanted
from models.state import GeneratorState

if TYPE_CHECKING:
    from models.clip import ClipModel
    from models.pack import Pack


class MapperEditor:
    """Edit with the mapper of the instruction's target text; the source text is not read (StyleCLIP section 5)."""

    def __init__(self, name: str, mappers: MapperSet) -> None:
        self.name = name
        self.mappers = mappers

    @classmethod
    def of(cls, name: str, pack: Pack, settings: object) -> Self:
        """Return the editor that a network of a pack is; it has no settings."""
        return cls(name, pack.network(name, MapperSet))

    @torch.no_grad()
    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with moved latents. Raises ValueError for a target text without a mapper."""
        texts = self.mappers.texts
        if instruction.target not in texts:
            raise ValueError(f"{self.name} has no mapper for {instruction.target!r}; it has {', '.join(map(repr, texts))}")
        latents = inversion.state.latents_BLD
        which = torch.full((len(latents),), texts.index(instruction.target), device=latents.device)
        return replace(inversion.state, latents_BLD=latents + SHARE * instruction.strength * self.mappers(latents, which))


class HairClipEditor:
    """Edit with HairCLIP's mapper, by the target text alone."""

    def __init__(self, name: str, mapper: HairClipMapper, *, clip: ClipModel) -> None:
        self.name = name
        self.mapper = mapper
        self.clip = clip

    @classmethod
    def of(cls, name: str, pack: Pack, settings: object) -> Self:
        """Return the editor that a network of a pack is; it has no settings."""
        return cls(name, pack.network(name, HairClipMapper), clip=pack.clip())

    @torch.no_grad()
    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with moved latents. Raises ValueError when the text is longer than CLIP reads."""
        latents = inversion.state.latents_BLD
        change = self.mapper(latents, wanted(self.clip, instruction).to(latents))
        return replace(inversion.state, latents_BLD=latents + instruction.strength * change)
