"""Editors that move latents along the direction of an attribute: InterFaceGAN, GANSpace, SeFa.

Shape legend: B batch, L latent slots, D style width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, cast

import torch

from models.attribute_directions import LABELLED, Method, attribute_direction, spread
from models.directions import Directions
from models.instruction import Instruction
from models.inversion import Inversion
from models.state import GeneratorState

if TYPE_CHECKING:
    from models.pack import Pack


@dataclass(frozen=True, kw_only=True)
class AttributeSettings:
    """Settings of the editors that follow attributes: a strength of 1 moves by `deviations` standard deviations of W along a direction."""

    deviations: float = 2.0
    labelled: int = LABELLED
    """Generated pictures whose labels teach InterFaceGAN."""

    def __post_init__(self) -> None:
        if not self.deviations > 0 or self.labelled < 10:
            raise ValueError(f"deviations {self.deviations}, labelled {self.labelled}: expected more than 0, and 10 or more")


class AttributeEditor:
    """Edit by the attributes that an instruction expects, each along its own direction; the texts are not read.

    Source: InterFaceGAN section 2.2, GANSpace section 2.1, SeFa eq. 4 (models/directions.py). A direction is found when it is first needed.
    """

    Settings = AttributeSettings

    @classmethod
    def of(cls, name: str, pack: Pack, settings: AttributeSettings) -> Self:
        """Return the editor of the method `name`."""
        return cls(name, pack, method=cast(Method, name), settings=settings)

    def __init__(self, name: str, pack: Pack, *, method: Method, settings: AttributeSettings) -> None:
        self.name = name
        self.pack = pack
        self.method = method
        self.settings = settings
        self._steps: dict[str, tuple[Directions, float]] = {}

    @torch.no_grad()
    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with moved latents. Raises ValueError for an instruction that expects nothing, or an unknown attribute."""
        if not instruction.expects:
            raise ValueError(f"instruction {instruction.name!r}: {self.name} needs `expects`, such as {{smile: true}}")
        latents_BLD = inversion.state.latents_BLD
        for attribute, wanted in instruction.expects.items():
            direction, unit = self._step(attribute)
            latents_BLD = direction.moved(latents_BLD, instruction.strength * unit * (1 if wanted else -1))
        return replace(inversion.state, latents_BLD=latents_BLD)

    def _step(self, attribute: str) -> tuple[Directions, float]:
        if attribute not in self._steps:
            found = attribute_direction(self.pack, attribute, method=self.method, labelled=self.settings.labelled)
            self._steps[attribute] = found, self.settings.deviations * spread(self.pack, found)
        return self._steps[attribute]
