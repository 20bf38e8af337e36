"""The manifest: one parquet file per shard, one row per sample and instruction, one row per quarantined sample."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from models.instruction import Instruction
from pipeline.sample import FailedSample, Sample

if TYPE_CHECKING:  # it brings torch along, which a driver that only reads manifests can do without
    from pipeline.score import EditScores

OK, QUARANTINED = "ok", "quarantined"
INVERSION = "inversion"  # stands where the instruction does, in the rows of a run without instructions; no instruction may be called so

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("instruction", pa.string()),
        ("source", pa.string()),
        ("target", pa.string()),
        ("strength", pa.float64()),
        ("status", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("image_sha256", pa.string()),
        ("psnr", pa.float64()),
        ("ssim", pa.float64()),
        ("lpips", pa.float64()),
        ("psnr_inversion", pa.float64()),
        ("lpips_inversion", pa.float64()),
        ("identity", pa.float64()),
        ("same_person", pa.bool_()),
        ("clip_score", pa.float64()),
        ("clip_directional", pa.float64()),
        ("clip_directional_inversion", pa.float64()),
        ("success", pa.bool_()),
        ("collateral", pa.int64()),
        ("flips", pa.list_(pa.string())),
        ("attributes_reliable", pa.bool_()),
        ("inverter", pa.string()),
        ("editor", pa.string()),
        ("backend", pa.string()),
    ]
)

Cell = str | int | float | bool | list[str] | None
Row = dict[str, Cell]


@dataclass(frozen=True, kw_only=True)
class Method:
    """How an edit was made; the same in every row of a shard."""

    inverter: str
    editor: str
    backend: str


@dataclass(frozen=True, kw_only=True)
class Edited:
    """One edited picture of one sample."""

    instruction: Instruction
    image_sha256: str
    scores: EditScores


def scores_of(scores: EditScores) -> dict[str, Cell]:
    """Return the scores as plain values that JSON and parquet hold."""
    values = dataclasses.asdict(scores)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def edit_row(key: str, shard: str, index: int, *, edited: Edited, method: Method) -> Row:
    """Return the row of one edited picture."""
    instruction = edited.instruction
    return {
        "key": key,
        "shard": shard,
        "index": index,
        "instruction": instruction.name,
        "source": instruction.source,
        "target": instruction.target,
        "strength": instruction.strength,
        "status": OK,
        "stage": "",
        "reason": "",
        "image_sha256": edited.image_sha256,
        **scores_of(edited.scores),
        **dataclasses.asdict(method),
    }


def inversion_row(sample: Sample, *, image_sha256: str, scores: Mapping[str, Cell], method: Method) -> Row:
    """Return the row of a sample that was inverted and not edited: the inversion takes the place of the edit."""
    return {
        "key": sample.key,
        "shard": sample.shard,
        "index": sample.index,
        "instruction": INVERSION,
        "source": "",
        "target": "",
        "strength": 0.0,
        "status": OK,
        "stage": "",
        "reason": "",
        "image_sha256": image_sha256,
        **scores,
        **dataclasses.asdict(method),
    }


def failed_row(failed: FailedSample, method: Method) -> Row:
    """Return the row of a quarantined sample."""
    return {
        "key": failed.key,
        "shard": failed.shard,
        "index": failed.index,
        "instruction": "",
        "status": QUARANTINED,
        "stage": failed.stage,
        "reason": failed.reason,
        **dataclasses.asdict(method),
    }


def to_parquet(rows: Sequence[Row], schema: pa.Schema = SCHEMA) -> bytes:
    """Return the manifest file of these rows; equal rows give equal bytes."""
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
