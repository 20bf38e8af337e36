"""Instructions, edits and recipes that the tests of augmentation share."""

from __future__ import annotations

from pathlib import Path

from augmentation.edits import Edit, Gates, Strength
from augmentation.recipe import Balance, Recipe, groups_of
from models.instruction import Instruction

ROOT = Path(__file__).parents[2]
SMILE = Instruction(name="smile", source="a face", target="a smiling face", strength=0.85, expects={"smile": True})
GRIN = Instruction(name="grin", source="a face", target="a grinning face", expects={"smile": True})
GLASSES = Instruction(name="glasses", source="a face", target="a face with glasses", expects={"glasses": True})
HAT = Instruction(name="hat", source="a face", target="a face with a hat", expects={"hat": True})
NO_GLASSES = Instruction(
    name="no_glasses", source="a face", target="a face with glasses", strength=-1, expects={"glasses": False, "no_eyewear": True}
)


def edit_of(*instructions: Instruction, weight: float = 1.0, gates: Gates | None = None, strength: Strength | None = None) -> Edit:
    """Return an edit that is called like what it does."""
    name = "-".join(one.name for one in instructions)
    return Edit(name=name, instructions=instructions, weight=weight, gates=gates or Gates(), strength=strength or Strength())


def balance_of(*attributes: str, size: int | None = None) -> Balance:
    """Return the wish for equal shares of all groups."""
    groups = groups_of(attributes)
    return Balance(shares=tuple((group, 1 / len(groups)) for group in groups), size=size)


def balanced(*edits: Edit, attributes: tuple[str, ...] = ("smile",), attempts: int = 3) -> Recipe:
    """Return a recipe that balances attributes by edits."""
    return Recipe(edits=edits, balance=balance_of(*attributes), attempts=attempts)
