"""What the report of an augmentation shows, read shard by shard from the manifests: memory does not grow with the dataset. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from augmentation.choice import chance
from augmentation.rows import DRAWN, EDIT, ORIGINAL, REJECTED, read_rows
from pipeline.ledger import Record
from pipeline.manifest import OK, QUARANTINED
from pipeline.report_data import sound_records
from pipeline.storage import Storage

SHOWN = 12
"""Pictures of one edit that the report shows, of those kept and of those rejected."""
MEASURES = ("certainty", "identity", "realism", "clip_directional", "lpips")
COLUMNS = (
    "key", "shard", "instruction", "source", "target", "strength", "status", "stage", "reason", "kind", "made", "factor", "labels",
    "same_person", "collateral", "attributes_reliable", "inverter", "editor", "backend", *MEASURES,
)  # fmt: skip
Row = Mapping[str, object]


@dataclass(frozen=True, kw_only=True, order=True)
class Example:
    """One picture to show: where it lies, and its row. Examples are ordered by a chance that is the same in every run."""

    order: float
    place: str
    """The tar that holds it."""
    key: str
    source: str = ""
    """The tar that holds the picture before."""
    row: Row = field(compare=False)


@dataclass(kw_only=True)
class EditNumbers:
    """Gather what the manifests say of one edit."""

    name: str
    source: str = ""
    target: str = ""
    reliable: bool = True
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Of the edits that were kept: sum and number of each measure."""
    same_person: Counter[bool] = field(default_factory=Counter)
    kept: list[Example] = field(default_factory=list)
    rejected: list[Example] = field(default_factory=list)

    def add(self, row: Row, example: Example | None) -> None:
        """Take in one row."""
        self.source, self.target = str(row["source"]), str(row["target"])
        self.reliable = self.reliable and row["attributes_reliable"] is not False
        if row["status"] == OK:
            for name in (*MEASURES, "collateral"):
                value = row[name]
                if isinstance(value, (int, float)):
                    total, count = self.sums.get(name, (0.0, 0))
                    self.sums[name] = total + value, count + 1
            if row["same_person"] is not None:
                self.same_person[bool(row["same_person"])] += 1
        if example is not None:
            shown = self.kept if row["status"] == OK else self.rejected
            shown.append(example)
            shown.sort()
            del shown[SHOWN:]

    def mean(self, measure: str) -> float | None:
        """Return the mean of a measure over the edits that were kept."""
        total, count = self.sums.get(measure, (0.0, 0))
        return total / count if count else None


@dataclass(kw_only=True)
class Augmented:
    """All that the report says in numbers."""

    facts: Mapping[str, object]
    ledger: dict[str, Record] = field(default_factory=dict)
    edits: dict[str, EditNumbers] = field(default_factory=dict)
    drawn: list[Example] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """Samples that were kept, by kind."""
    labels: Counter[str] = field(default_factory=Counter)
    """How many of these show an attribute."""
    sources: int = 0
    before: Counter[str] = field(default_factory=Counter)
    """Originals, whether they are kept or not, and how many show an attribute."""
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Samples in quarantine by stage and reason."""
    provenance: dict[str, set[str]] = field(default_factory=lambda: {"inverter": set(), "editor": set(), "backend": set()})

    def add(self, shard: str, row: Row) -> None:
        """Take in one row of a manifest."""
        kind, status = str(row["kind"] or ""), row["status"]
        for name, seen in self.provenance.items():
            seen.update([str(row[name])] if row[name] else [])
        if status == QUARANTINED:
            self.failures[str(row["stage"]), str(row["reason"])] += 1
            return
        labels = row["labels"] if isinstance(row["labels"], list) else []
        if kind == ORIGINAL:
            self.sources += 1
            self.before.update(labels)
        if status == OK and row["made"]:
            self.kinds[kind] += 1
            self.labels.update(labels)
        if kind == EDIT:
            numbers = self.edits.setdefault(str(row["instruction"]), EditNumbers(name=str(row["instruction"])))
            numbers.add(row, _example(shard, row))
        elif kind == DRAWN and status == OK:
            self.drawn = sorted([*self.drawn, *filter(None, [_example(shard, row)])])[: 2 * SHOWN]

    @property
    def damaged(self) -> list[tuple[str, str]]:
        """Return the shards that could not be read to their end, and why."""
        return [(name, record.damage) for name, record in self.ledger.items() if record.damage]


def _example(shard: str, row: Row) -> Example | None:
    if not row["made"]:
        return None
    place = "rejected" if row["status"] == REJECTED else "shards"
    order = chance("report", row["shard"], row["made"])
    return Example(order=order, place=f"{place}/{shard}.tar", key=str(row["made"]), source=f"shards/{row['shard']}.tar", row=row)


def read_augmented(storage: Storage) -> Augmented:
    """Read everything about an augmentation but its pictures; only shards with a ledger record count."""
    found = Augmented(facts=json.loads(storage.read("run.json")))
    for shard, record in sound_records(storage):
        found.ledger[shard] = record
        if f"manifests/{shard}.parquet" in record.files:
            for row in read_rows(storage, shard, COLUMNS):
                found.add(shard, row)
    return found


def ordered(found: Augmented, names: Sequence[str]) -> list[EditNumbers]:
    """Return the edits in the order of the recipe, those that were never tried too."""
    return [found.edits.get(name, EditNumbers(name=name)) for name in names]
