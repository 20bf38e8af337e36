"""Outputs of an augmentation as a run leaves them, in part or whole: rows by the package's own function, pictures that are drawn here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from augmentation.edits import Edit
from augmentation.gates import Measured
from augmentation.recipe import Recipe
from augmentation.rows import AUGMENTED, DRAWN, EDIT, ORIGINAL, REJECTED, row_of
from augmentation.yields import yields
from models.instruction import Instruction
from pipeline.manifest import Method, Row, failed_row, scores_of, to_parquet
from pipeline.sample import FailedSample, Sample
from pipeline.shards import ShardWriter
from pipeline.storage import Storage
from tests.pipeline.small_output import commit, encoded, paint, part, scores_for

METHOD = Method(inverter="e4e", editor="clipinverter", backend="torch-cpu")
RUN: Mapping[str, object] = {
    "format": 1, "input": "s3://bucket/portraits/raw", "output": "s3://bucket/portraits/better", "started": "2031-05-04 12:00:00 UTC",
    "ended": "2031-05-04 12:02:00 UTC", "seconds": 92.4, "images_per_s": 1.46, "inverter": "e4e", "editor": "clipinverter",
    "pack": {"name": "portraits64", "sha256": "ab" * 32, "size": 64, "licence": "Apache-2.0"}, "config_hash": "c0ffee",
    "config": {"input": "s3://bucket/portraits/raw"}, "instructions": [], "scores": {}, "versions": {"hyperedit": "0.1.0"},
    "backend": {"asked": "eager", "used": "eager", "ran": ["torch-cpu"], "notes": []}, "precision": {"asked": "float32", "used": "float32"},
}  # fmt: skip


def sample(key: str, index: int, shard: str) -> Sample:
    return Sample(key=key, shard=shard, index=index, members={}, image_ext="")


def original(key: str, index: int, *holds: str, shard: str = "a", made: bool = True) -> Row:
    """Return the row of an original that shows some attributes."""
    labels = dict.fromkeys(holds, True)
    return row_of(sample(key, index, shard), kind=ORIGINAL, method=METHOD, made=key if made else "", labels=labels)


def broken(key: str, index: int, *, shard: str = "a") -> Row:
    """Return the row of an original in quarantine."""
    failed = FailedSample(key=key, shard=shard, index=index, stage="decode", reason="ends early & <cut>")
    return failed_row(failed, METHOD)


def measured_of(key: str, edit: Edit) -> Measured:
    """Return made-up numbers that depend on who and what."""
    certainty = 0.99 + part(key, edit.name, "sure") / 100
    return Measured(certainty=certainty, identity=0.6, collateral=0, realism=part(key, edit.name, "far"))


def tried(
    key: str, index: int, edit: Edit, *, reason: str = "", target: str = "", factor: float = 1.0, shard: str = "a", shown: bool = True,
    holds: Iterable[str] = (),
) -> Row:  # fmt: skip
    """Return the row of an edit that was kept, or for a `reason` not; `shown` says whether its picture is there."""
    one = edit.as_one(factor)
    asked = Instruction(name=one.name, source=one.source, target=one.target, expects=one.expects)
    scores = scores_of(replace(scores_for(key, asked), same_person=True))
    also = {
        "instruction": edit.name, "source": one.source, "target": one.target, "strength": one.strength, "factor": factor,
        "target_group": target, **scores,
    }  # fmt: skip
    return row_of(
        sample(key, index, shard), kind=EDIT, method=METHOD, made=f"{key}~{edit.name}" if shown else "", reason=reason,
        labels=dict.fromkeys(holds, True), measured=measured_of(key, edit), also=also,
    )  # fmt: skip


def drawn(key: str, index: int, *, seed: int, reason: str = "", shard: str = "drawn-00000") -> Row:
    """Return the row of a picture that the generator drew."""
    more = {"seed": seed, "realism": part(key)}
    return row_of(sample(key, index, shard), kind=DRAWN, method=METHOD, made="" if reason else key, reason=reason, also=more)


def write_manifest(storage: Storage, name: str, rows: Sequence[Row]) -> None:
    """Write what a later round is planned from."""
    storage.write(f"manifests/{name}.parquet", to_parquet(rows, AUGMENTED))


def write_shard(storage: Storage, name: str, rows: Sequence[Row], *, damage: str = "") -> None:
    """Write one committed shard: the pictures of what was kept, some of what was rejected, the manifest and the record."""
    for place in ("shards", "rejected"):
        made = [row for row in rows if row.get("made") and (row["status"] == REJECTED) == (place == "rejected")]
        if made:
            with ShardWriter(storage, f"{place}/{name}.tar") as writer:
                for row in made:
                    what = str(row["instruction"] or "aligned")
                    writer.write(str(row["made"]), {"png": encoded(paint(str(row["key"]), what)), "json": b"{}"})
    write_manifest(storage, name, rows)
    commit(storage, name, {"ok": len(rows)}, damage=damage)


def write_run(storage: Storage, recipe: Recipe, *, targets: Sequence[Mapping[str, object]] = (), **counts: int) -> None:
    """Write run.json with the yields that the manifests come to."""
    found = yields(recipe, storage)
    more = {"augmentation": {"recipe": recipe.content(), "yields": found, "targets": list(targets), "rounds": 1}}
    storage.write("run.json", json.dumps({**RUN, "counts": counts, **more}).encode())
