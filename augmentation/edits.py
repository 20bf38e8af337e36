"""What a recipe asks of one sample: an edit of one or two instructions, how strong, and what has to hold for it to be kept. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from models.instruction import Instruction

SAME_PERSON = "same_person"
MOST_COMBINED = 2
LEVELS = 9
"""Values that a strength out of a range may take: few, so that samples of equal strength share a forward pass."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What an edit has to pass to be kept; None lets everything through.

    `success` is the least probability that the attribute classifier may give to anything that the edit is expected to show, in the
    picture or in its mirror image. `identity` is the least similarity to the source by the identity network, or "same_person" for the
    network's own threshold. `collateral` is how many attributes may change unasked. `realism` is the largest distance to the generator's
    own pictures, where 1 is as far as 1 % of those are (augmentation/realism.py).
    """

    success: float | None = 0.99
    identity: float | str | None = SAME_PERSON
    collateral: int | None = 2
    realism: float | None = 1.0


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How strong an edit is, as multiples of its instructions' own strengths: fixed (`low` is `high`), drawn from a range, or `auto`.

    `auto` takes the smallest between the two that the success gate lets through, by bisection in `steps` halvings.
    """

    low: float = 1.0
    high: float = 1.0
    auto: bool = False
    steps: int = 4

    def drawn(self, chance: float) -> float:
        """Return a strength of the range for a number in [0, 1)."""
        level = min(LEVELS - 1, int(chance * LEVELS))
        return self.low + (self.high - self.low) * level / (LEVELS - 1)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One kind of edit of a recipe; `carries` are instructions one after the other."""

    name: str
    instructions: tuple[Instruction, ...]
    weight: float = 1.0
    strength: Strength = field(default_factory=Strength)
    gates: Gates = field(default_factory=Gates)
    caption: str = ""
    """The caption of what was made, with {caption} for that of the source; empty: rewritten from the instructions."""

    @property
    def expects(self) -> Mapping[str, bool]:
        """Return what has to be seen in the end."""
        return {name: wanted for one in self.instructions for name, wanted in one.expects.items()}

    def at(self, factor: float) -> tuple[Instruction, ...]:
        """Return the instructions at `factor` times their own strengths."""
        return tuple(replace(one, strength=one.strength * factor) for one in self.instructions)

    def as_one(self, factor: float = 1.0) -> Instruction:
        """Return one instruction that says what all do, for scores and records.

        Its strength is that of a single instruction; where two are combined it is the factor, and the texts are those of what comes out.
        """
        first, last = self.instructions[0], self.instructions[-1]
        if first is last:
            return replace(first, name=self.name, strength=first.strength * factor)
        source, target = shown_before(first), f"{shown_after(first)} and {shown_after(last)}"
        return Instruction(name=self.name, source=source, target=target, strength=factor, expects=self.expects)

    def content(self) -> dict[str, object]:
        """Return what decides on the edit, in the types of JSON."""
        return {
            "name": self.name, "instructions": [one.content() for one in self.instructions], "weight": self.weight,
            "strength": vars(self.strength), "gates": vars(self.gates), "caption": self.caption,
        }  # fmt: skip


def shown_before(instruction: Instruction) -> str:
    """Return what a picture shows before an instruction: a negative strength turns it round."""
    return instruction.source if instruction.strength > 0 else instruction.target


def shown_after(instruction: Instruction) -> str:
    """Return what a picture shows after it."""
    return instruction.target if instruction.strength > 0 else instruction.source
