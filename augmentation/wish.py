"""What a worker is asked to do for an augmented dataset; plain values, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from augmentation.recipe import Recipe
from models.instruction import Instruction
from pipeline.storage import Storage

if TYPE_CHECKING:
    from pipeline.batch import ShardWork

Phase = Literal["samples", "originals", "edits"]
"""A shard as a whole, with a number of edits per sample; or first the originals of all shards and then, by plan, their edits."""
REALISM_FILE = "realism.npz"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Edits that a plan asks of a shard: `quota` of them accepted, tried in the order of `tries`, pairs of a sample's index and an edit.

    `target` names what they are for, and `also` is what has to be seen beside what an edit expects.
    """

    target: str
    quota: int
    also: Mapping[str, bool]
    tries: tuple[tuple[int, str], ...]


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What a shard of edits is to hold; a sample is tried once for a target."""

    cells: tuple[Cell, ...]

    def indices(self) -> frozenset[int]:
        """Return the samples that may be needed."""
        return frozenset(index for cell in self.cells for index, _ in cell.tries)

    def to_json(self) -> bytes:
        """Return the file that workers read; equal plans give equal bytes."""
        cells = [{"target": cell.target, "quota": cell.quota, "also": cell.also, "tries": cell.tries} for cell in self.cells]
        return (json.dumps({"cells": cells}, ensure_ascii=False, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> ShardPlan:
        """Read what `to_json` returned."""
        return cls(
            cells=tuple(
                Cell(
                    target=cell["target"],
                    quota=cell["quota"],
                    also=cell["also"],
                    tries=tuple((int(i), str(name)) for i, name in cell["tries"]),
                )
                for cell in json.loads(data)["cells"]
            )
        )


@dataclass(frozen=True, kw_only=True)
class AugmentWish:
    """A recipe and the phase that a shard is in."""

    recipe: Recipe
    phase: Phase
    seed: int = 0

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """Return what the worker's networks have to know."""
        return self.recipe.instructions

    def summary(self) -> str:
        """Return the names of the edits, and what else is made."""
        names = ", ".join(edit.name for edit in self.recipe.edits)
        edits = [f"{len(self.recipe.edits)} edits: {names}"] if names else []
        drawn = [f"{self.recipe.drawn.count} drawn pictures"] if self.recipe.drawn is not None else []
        return " and ".join((*edits, *drawn))

    def only(self, shard: str, storage: Storage) -> frozenset[int] | None:
        """Return the samples of a shard that are needed, None where all are."""
        return read_plan(storage, shard).indices() if self.phase == "edits" else None

    def begin(self, shard: str, storage: Storage) -> ShardWork:
        """Return what does the work of a shard."""
        from augmentation.shard import AugmentShard  # it brings torch along

        return AugmentShard(self, shard, storage)


def name_of(pack: str, precision: str) -> str:
    """Return what statistics of features were measured with: the pack, by its sha256, and the precision of its networks."""
    return f"{pack} {precision}"


def plan_path(shard: str) -> str:
    """Return where the plan of a shard of edits lies in an output."""
    return f"plans/{shard}.json"


def read_plan(storage: Storage, shard: str) -> ShardPlan:
    """Return the plan of a shard of edits."""
    return ShardPlan.from_json(storage.read(plan_path(shard)))
