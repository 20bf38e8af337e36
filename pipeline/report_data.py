"""The numbers of a run, read shard by shard from its manifests: memory does not grow with the dataset."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.frechet import ShardMoments
from pipeline.ledger import Record, read_record
from pipeline.manifest import INVERSION
from pipeline.report_scores import CRITERION, INVERSION_CRITERION, SCORES, Distribution, Share
from pipeline.resume import finished_shards
from pipeline.storage import Storage

CANDIDATES = 20  # samples kept for showing
EXTREMES = 4  # worst and best edits kept per instruction
MAX_REASONS = 200
EXAMPLES_PER_REASON = 3


@dataclass(frozen=True, kw_only=True, order=True)
class SampleRef:
    """Name one sample of the output; `digest` orders samples by chance, the same chance in every run."""

    digest: str
    shard: str
    index: int
    key: str


Row = Mapping[str, object]


@dataclass(kw_only=True)
class InstructionNumbers:
    """Gather what the manifests say of one instruction."""

    name: str
    source: str = ""
    target: str = ""
    strength: float = 1.0
    count: int = 0
    reliable: bool = True
    distributions: dict[str, Distribution] = field(default_factory=lambda: {s.column: Distribution(score=s) for s in SCORES})
    success: Share = field(default_factory=Share)
    same_person: Share = field(default_factory=Share)
    collateral: int = 0
    judged: int = 0
    """Edits whose attributes a classifier read."""
    flips: Counter[str] = field(default_factory=Counter)
    worst: list[tuple[float, SampleRef, Row]] = field(default_factory=list)
    best: list[tuple[float, SampleRef, Row]] = field(default_factory=list)

    @property
    def collateral_per_edit(self) -> float | None:
        """Return how many attributes an edit changed unasked, in the mean; None where no classifier looked."""
        return self.collateral / self.judged if self.judged else None

    @property
    def is_inversion(self) -> bool:
        """Say whether these are the inversions of a run without instructions."""
        return self.name == INVERSION

    @property
    def criterion(self) -> str:
        """Return the score by which the best and the worst are chosen."""
        return INVERSION_CRITERION if self.is_inversion else CRITERION

    def add(self, rows: pa.Table, refs: Sequence[SampleRef]) -> None:
        """Add the rows of one shard, `refs` in the same order."""
        first = rows.slice(0, 1).to_pylist()[0]
        self.source, self.target, self.strength = str(first["source"]), str(first["target"]), float(first["strength"])
        self.reliable = self.reliable and first.get("attributes_reliable") is not False
        self.count += rows.num_rows
        for column, distribution in self.distributions.items():
            if column in rows.column_names:
                distribution.add(_floats(rows, column))
        self.success.add(rows["success"].to_pylist())
        self.same_person.add(rows["same_person"].to_pylist())
        collateral = _floats(rows, "collateral")
        self.collateral += int(np.nansum(collateral))
        self.judged += int(np.isfinite(collateral).sum())
        for flips in rows["flips"].to_pylist():
            self.flips.update(flips or ())
        self._keep_extremes(rows, refs)

    def _keep_extremes(self, rows: pa.Table, refs: Sequence[SampleRef]) -> None:
        values = _floats(rows, self.criterion)
        order = sorted(np.flatnonzero(np.isfinite(values)).tolist(), key=lambda row: (values[row], refs[row]))
        for row in order[:EXTREMES] + order[-EXTREMES:]:
            self.worst.append((float(values[row]), refs[row], rows.slice(row, 1).to_pylist()[0]))
        kept = {ref: (value, ref, row) for value, ref, row in self.worst + self.best}
        ranked = sorted(kept.values(), key=lambda entry: entry[:2])
        self.worst, self.best = ranked[:EXTREMES], ranked[::-1][:EXTREMES]


@dataclass(kw_only=True)
class Reason:
    """Count the samples that failed for one reason, with a few to look at."""

    stage: str
    reason: str
    count: int = 0
    examples: list[SampleRef] = field(default_factory=list)


@dataclass(kw_only=True)
class Run:
    """Hold all that the report says in numbers."""

    facts: Mapping[str, object]
    ledger: dict[str, Record] = field(default_factory=dict)
    samples: int = 0
    failed_samples: int = 0
    edits: int = 0
    instructions: dict[str, InstructionNumbers] = field(default_factory=dict)
    reasons: dict[tuple[str, str], Reason] = field(default_factory=dict)
    chosen: list[tuple[SampleRef, dict[str, Row]]] = field(default_factory=list)
    moments: ShardMoments | None = None
    provenance: dict[str, set[str]] = field(default_factory=lambda: {"inverter": set(), "editor": set(), "backend": set()})


def damaged_shards(run: Run) -> list[tuple[str, str]]:
    """Return name and damage of the shards that could not be read to their end."""
    return [(name, record.damage) for name, record in run.ledger.items() if record.damage]


def read_run(storage: Storage) -> Run:
    """Read everything about a run but its pictures; only shards with a ledger record count.

    Raises FileNotFoundError when there is no run, ValueError when a file that the ledger names is missing or damaged.
    """
    if not storage.exists("run.json"):
        raise FileNotFoundError(f"{storage.url}: no run.json, so this is not the output of an edit job; name the folder given as --output")
    run = Run(facts=json.loads(storage.read("run.json")))
    for name, record in sound_records(storage):
        run.ledger[name] = record
        if f"manifests/{name}.parquet" in record.files:
            _add_manifest(run, name, _manifest(storage, name))
        if f"moments/{name}.npz" in record.files:
            shard = ShardMoments.from_npz(_read(storage, f"moments/{name}.npz"), where=f"{storage.url}/moments/{name}.npz")
            run.moments = shard if run.moments is None else run.moments.merge(shard)
    return run


def sound_records(storage: Storage) -> Iterator[tuple[str, Record]]:
    """Yield the shards that are finished, and their records. Raises ValueError for a record that is none."""
    for name in sorted(finished_shards(storage)):
        record = read_record(storage, name)
        if record is None:
            raise ValueError(f"{storage.url}/ledger/{name}.json: not a ledger record; run the job again, it repairs the shard")
        yield name, record


def _manifest(storage: Storage, name: str) -> pa.Table:
    path = f"manifests/{name}.parquet"
    try:
        return pq.read_table(io.BytesIO(_read(storage, path)))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{storage.url}/{path}: not a readable manifest ({error}); run the job again, it repairs the shard") from error


def _read(storage: Storage, path: str) -> bytes:
    try:
        return storage.read(path)
    except FileNotFoundError:
        raise ValueError(
            f"{storage.url}/{path}: the ledger names this file, but it is missing; run the job again, it repairs the shard"
        ) from None


def _add_manifest(run: Run, shard: str, table: pa.Table) -> None:
    samples: dict[tuple[str, int], SampleRef] = {}
    refs: list[SampleRef] = []
    for key, index in zip(table["key"].to_pylist(), table["index"].to_pylist(), strict=True):
        if (key, index) not in samples:
            samples[key, index] = SampleRef(digest=_digest(shard, key), shard=shard, index=index, key=key)
        refs.append(samples[key, index])
    good = np.array([status == "ok" for status in table["status"].to_pylist()], dtype=bool)
    run.samples += len(samples)
    run.edits += int(good.sum())
    failed = table.filter(pa.array(~good))
    _add_failures(run, failed.select(["stage", "reason"]).to_pylist(), [ref for ref, ok in zip(refs, good, strict=True) if not ok])
    names = np.array([str(name) for name in table["instruction"].to_pylist()], dtype=object)
    for name in dict.fromkeys(names[good].tolist()):
        rows = np.flatnonzero(good & (names == name))
        numbers = run.instructions.setdefault(name, InstructionNumbers(name=name))
        numbers.add(table.take(pa.array(rows)), [refs[row] for row in rows])
    for column, seen in run.provenance.items():
        if column in table.column_names:
            seen.update(str(value) for value in table[column].unique().to_pylist() if value)
    _keep_candidates(run, table, refs, good)


def _add_failures(run: Run, rows: Sequence[Row], refs: Sequence[SampleRef]) -> None:
    run.failed_samples += len(set(refs))
    for row, ref in zip(rows, refs, strict=True):
        place = (str(row["stage"] or "unknown"), str(row["reason"] or "no reason given"))
        if place not in run.reasons and len(run.reasons) >= MAX_REASONS:
            place = (place[0], "other reasons")
        entry = run.reasons.setdefault(place, Reason(stage=place[0], reason=place[1]))
        entry.count += 1
        entry.examples = sorted({*entry.examples, ref})[:EXAMPLES_PER_REASON]


def _keep_candidates(run: Run, table: pa.Table, refs: Sequence[SampleRef], good: npt.NDArray[np.bool_]) -> None:
    """Keep the samples with the smallest digests, those with every edit first."""
    edits: dict[int, list[int]] = {}
    for row in np.flatnonzero(good).tolist():
        edits.setdefault(refs[row].index, []).append(row)
    for rows in sorted(edits.values(), key=lambda rows: (-len(rows), refs[rows[0]]))[:CANDIDATES]:
        run.chosen.append((refs[rows[0]], {str(row["instruction"]): row for row in table.take(pa.array(rows)).to_pylist()}))
    run.chosen = sorted(run.chosen, key=lambda entry: (-len(entry[1]), entry[0]))[:CANDIDATES]


def ordered_instructions(run: Run) -> list[InstructionNumbers]:
    """Return the instructions in the order of the run's settings; those that it does not list come last, by name."""
    listed = [str(entry["name"]) for entry in _mappings(run.facts.get("instructions")) if "name" in entry]
    rank = {name: position for position, name in enumerate(listed)}
    return sorted(run.instructions.values(), key=lambda numbers: (rank.get(numbers.name, len(rank)), numbers.name))


def _mappings(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, dict))


def _floats(table: pa.Table, column: str) -> npt.NDArray[np.float64]:
    return np.asarray(table[column].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _digest(shard: str, key: str) -> str:
    return hashlib.sha256(f"{shard}/{key}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
