"""What a run came to, in numbers: counts from the ledger, mean scores from the manifests, one shard in memory at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ledger import Record, read_record
from pipeline.manifest import OK
from pipeline.resume import finished_shards
from pipeline.storage import Storage

# Columns that have a mean, by their name in the summary.
MEANS = {
    "psnr": "psnr",
    "ssim": "ssim",
    "lpips": "lpips",
    "identity": "identity",
    "same_person_rate": "same_person",
    "clip_score": "clip_score",
    "clip_directional": "clip_directional",
    "success_rate": "success",
    "collateral": "collateral",
}


TALLIED = ("originals", "accepted", "rejected", "drawn", "drawn_rejected", "unlabelled")
"""What an augmented dataset counts beside."""


def count_output(storage: Storage) -> dict[str, int]:
    """Add up the ledger: shards, damaged shards, samples, edited and quarantined ones, pictures written."""
    found = list(records(storage))
    counts = {name: sum(record.counts.get(name, 0) for record in found) for name in ("samples", "images", "quarantined")}
    return {
        "shards": len(found),
        "damaged_shards": sum(bool(record.damage) for record in found),
        "samples": counts["samples"],
        "edited": counts["samples"] - counts["quarantined"],
        "quarantined": counts["quarantined"],
        "images": counts["images"],
        **{name: total for name in TALLIED if (total := sum(record.counts.get(name, 0) for record in found))},
    }


def mean_scores(storage: Storage) -> dict[str, dict[str, float]]:
    """Return the means of the scores of each instruction over all that has a value."""
    totals: dict[str, dict[str, tuple[float, int]]] = {}
    for record in records(storage):
        path = f"manifests/{record.shard}.parquet"
        if path in record.files:
            _add(totals, pq.read_table(io.BytesIO(storage.read(path))))
    return {
        instruction: {name: round(total / count, 6) for name, (total, count) in columns.items() if count}
        for instruction, columns in sorted(totals.items())
    }


def _add(totals: dict[str, dict[str, tuple[float, int]]], table: pa.Table) -> None:
    edited = table.filter(pc.equal(table["status"], OK))
    for instruction in filter(None, edited["instruction"].unique().to_pylist()):
        rows = edited.filter(pc.equal(edited["instruction"], instruction))
        columns = totals.setdefault(instruction, {})
        for name, column in MEANS.items():
            values = rows[column].drop_null().cast(pa.float64())
            total, count = columns.get(name, (0.0, 0))
            columns[name] = (total + (pc.sum(values).as_py() or 0.0), count + len(values))


def records(storage: Storage) -> Iterator[Record]:
    """Yield the records of the shards that are finished, in order."""
    for name in sorted(finished_shards(storage)):
        record = read_record(storage, name)
        if record is not None:
            yield record
