"""What became of the edits that were tried: how many of each were kept, why the others were not, and whether targets were met. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from augmentation.gates import REASONS
from augmentation.quotas import State, Target, leads_to
from augmentation.recipe import Recipe
from augmentation.rows import DRAWN, EDIT, read_rows
from pipeline.manifest import OK
from pipeline.storage import Storage
from pipeline.summary import records


@dataclass(kw_only=True)
class Yield:
    """Count the tries of one edit."""

    tried: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """By the gate that they did not pass."""
    factors: list[float] = field(default_factory=list)
    """Strengths, as multiples of the instruction's own, of those that were kept."""

    def add(self, *, status: str, reason: str, factor: float | None) -> None:
        """Count one try."""
        self.tried += 1
        if status == OK:
            self.accepted += 1
            self.factors += [] if factor is None else [factor]
        else:
            self.rejected[reason] += 1

    def plain(self) -> dict[str, object]:
        """Return the counts as JSON has them."""
        share = self.accepted / self.tried if self.tried else None
        middle = sorted(self.factors)[len(self.factors) // 2] if self.factors else None
        rejected = {name: self.rejected[name] for name in (*REASONS, *sorted(set(self.rejected) - set(REASONS))) if self.rejected[name]}
        return {"tried": self.tried, "accepted": self.accepted, "yield": share, "rejected": rejected, "median_factor": middle}


def yields(recipe: Recipe, storage: Storage) -> dict[str, dict[str, object]]:
    """Return the yield of each edit of a recipe, and of drawn pictures under their own name, from the manifests."""
    found = {edit.name: Yield() for edit in recipe.edits} | ({DRAWN: Yield()} if recipe.drawn is not None else {})
    for record in records(storage):
        if f"manifests/{record.shard}.parquet" not in record.files:
            continue
        for row in read_rows(storage, record.shard, ("kind", "instruction", "status", "reason", "factor")):
            name = str(row["instruction"] if row["kind"] == EDIT else row["kind"])
            if name in found:
                factor = row["factor"]
                found[name].add(status=str(row["status"]), reason=str(row["reason"]), factor=factor if isinstance(factor, float) else None)
    return {name: one.plain() for name, one in found.items()}


def met(state: State, recipe: Recipe, made: Mapping[str, Mapping[str, object]]) -> list[dict[str, object]]:
    """Return each target, what it has, and where it lacks something why."""
    return [
        {"target": one.name, "wanted": one.wanted, "originals": one.there, "edits": one.accepted, "missing": one.missing,
         "why": _why(one, state, recipe=recipe, made=made) if one.missing else ""}
        for one in state.targets
    ]  # fmt: skip


def _why(target: Target, state: State, *, recipe: Recipe, made: Mapping[str, Mapping[str, object]]) -> str:
    able = sum(any(leads_to(edit, person, target) for edit in recipe.edits) for person in state.people)
    if not able:
        return f"no original can be edited into it: of {len(state.people)}, none lacks only what an edit of the recipe gives"
    tries = len(target.tried)
    names = sorted({edit for _, _, edit in target.tried})
    lost = Counter[str]()
    for name in names:
        rejected = made.get(name, {}).get("rejected", {})
        assert isinstance(rejected, Mapping)
        lost.update({str(reason): int(count) for reason, count in rejected.items()})
    most = f", most by the gate {lost.most_common(1)[0][0]}" if lost else ""
    return (
        f"{able} originals can be edited into it; {tries} tries came to {target.accepted}{most}: add edits or input, raise attempts, or "
        "loosen a gate"
    )


def total(targets: Sequence[Mapping[str, object]]) -> int:
    """Return how many samples all targets lack."""
    return sum(int(str(one["missing"])) for one in targets)
