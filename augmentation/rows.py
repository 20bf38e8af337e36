"""The manifest of an augmented dataset: the columns of `edit_dataset`, and what only gates and plans have to say."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from augmentation.gates import Measured
from pipeline.manifest import OK, SCHEMA, Cell, Method, Row
from pipeline.sample import Sample
from pipeline.storage import Storage

REJECTED = "rejected"
UNLABELLED = "unlabelled"
"""Counts originals that bring none of the labels that the recipe counts on."""
ORIGINAL, EDIT, DRAWN = "original", "edit", "drawn"
"""Kinds of samples."""
MORE: Mapping[str, tuple[pa.DataType, str]] = {
    "kind": (pa.string(), "original, edit or drawn."),
    "made": (
        pa.string(),
        "Key of the sample that this row became: in shards/, or for a rejected one in rejected/; empty where there is none.",
    ),
    "factor": (pa.float64(), "Strength as a multiple of the instruction's own."),
    "certainty": (pa.float64(), "Least probability, by the attribute classifier, of what the edit should show."),
    "realism": (pa.float64(), "Distance to the generator's own pictures; 1 is as far as 1 % of those are."),
    "labels": (pa.list_(pa.string()), "Attributes that the picture shows."),
    "target_group": (pa.string(), "What the edit was planned for; empty without a plan."),
    "seed": (pa.int64(), "Seed that a drawn sample comes from."),
}
"""Column -> its type and what it holds."""
AUGMENTED = pa.schema([*SCHEMA, *((name, kind) for name, (kind, _) in MORE.items())])


def read_rows(storage: Storage, shard: str, columns: Sequence[str]) -> list[dict[str, Cell]]:
    """Return columns of a shard's manifest, row by row; nothing where another kind of job wrote it."""
    file = pq.ParquetFile(io.BytesIO(storage.read(f"manifests/{shard}.parquet")))
    if "kind" not in file.schema_arrow.names:
        return []
    rows: list[dict[str, Cell]] = file.read(columns=list(columns)).to_pylist()
    return rows


def row_of(
    sample: Sample, *, kind: str, method: Method, made: str = "", reason: str = "", labels: Mapping[str, bool] | None = None,
    measured: Measured | None = None, also: Mapping[str, Cell] | None = None,
) -> Row:  # fmt: skip
    """Return the row of a picture that was kept, or for a `reason` not."""
    gates = {} if measured is None else {"certainty": measured.certainty, "realism": measured.realism}
    return {
        "key": sample.key, "shard": sample.shard, "index": sample.index, "instruction": "", "status": REJECTED if reason else OK,
        "stage": "gate" if reason else "", "reason": reason, "kind": kind, "made": made, "target_group": "",
        "labels": [name for name, holds in (labels or {}).items() if holds], **gates, **asdict(method), **(also or {}),
    }  # fmt: skip
