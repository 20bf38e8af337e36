"""A small output folder as a run leaves it, written by the pipeline's own writers, with drawn pictures and made-up scores."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from models.instruction import Instruction
from pipeline.frechet import ShardMoments
from pipeline.ledger import FileMark, Identity, Record, output_files, record_path
from pipeline.manifest import Edited, Method, Row, edit_row, failed_row, to_parquet
from pipeline.sample import FailedSample
from pipeline.score import EditScores
from pipeline.shards import QuarantineWriter, ShardWriter
from pipeline.storage import Storage

FEATURES = {"lpips": "alexnet, random weights (seed 0)", "frechet": "image embedding of the pack's CLIP"}
METHOD = Method(inverter="e4e", editor="hypereditor", backend="torch-cpu")
SMILE = Instruction(name="smile", source="a face", target="a smiling face", expects={"smile": True})
BLOND = Instruction(name="blond", source="a face", target="a face with blond hair", expects={"hair_blond": True})
ZOMBIE = Instruction(name="zombie", source="a photo of a face", target="a <b>zombie</b> face", strength=1.5, expects={"style_zombie": True})
INSTRUCTIONS = (SMILE, BLOND, ZOMBIE)

Painter = Callable[[str, str], Image.Image]  # key and "aligned" or an instruction -> picture


def paint(key: str, what: str, size: int = 64) -> Image.Image:
    """Draw a disc in colours that depend on key and instruction."""
    shade = hashlib.sha256(f"{key}{what}".encode()).digest()
    image = Image.new("RGB", (size, size), tuple(shade[:3]))
    ImageDraw.Draw(image).ellipse((8, 8, size - 8, size - 8), fill=tuple(shade[3:6]))
    return image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def part(*words: object) -> float:
    """A number in [0, 1) that depends on the words."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:4]) / 2**32


def scores_for(key: str, instruction: Instruction) -> EditScores:
    name, style = instruction.name, instruction.name == "zombie"
    direction = 0.55 * part(key, name, "dir") - 0.05
    flips = tuple(attribute for attribute in ("beard", "old", "lipstick") if part(key, name, attribute) < 0.12)
    identity = 0.35 + 0.6 * part(key, name, "id")
    return EditScores(
        psnr=18 + 8 * part(key, name, 1), ssim=0.6 + 0.3 * part(key, name, 2), lpips=0.3 * part(key, name, 3),
        psnr_inversion=22 + 8 * part(key, name, 4), lpips_inversion=0.2 * part(key, name, 5),
        identity=identity, same_person=identity > 0.45,
        clip_score=24 + 6 * part(key, name, 6), clip_directional=direction, clip_directional_inversion=direction + 0.02,
        success=part(key, name, 7) < 0.85, collateral=len(flips), flips=flips, attributes_reliable=not style,
    )  # fmt: skip


def write_shard(
    out: Path, name: str, keys: Sequence[str], *, failed: Sequence[FailedSample] = (), instructions: Sequence[Instruction] = INSTRUCTIONS,
    painter: Painter = paint, scores: Callable[[str, Instruction], EditScores] = scores_for,
) -> None:  # fmt: skip
    """Write one committed shard with everything that belongs to it."""
    storage, rows = Storage(str(out)), list[Row]()
    moments = ShardMoments.empty(3, [instruction.name for instruction in instructions])
    generator = torch.Generator().manual_seed(len(name) + int(name[-1]))
    with ShardWriter(storage, f"shards/{name}.tar") as writer:
        for index, key in enumerate(keys):
            members = {
                "aligned.png": encoded(painter(key, "aligned")),
                "json": b"{}",
                "edits.json": json.dumps({"features": FEATURES}).encode(),
            }
            moments.source.update(torch.randn(1, 3, generator=generator))
            for instruction in instructions:
                members[f"{instruction.name}.png"] = encoded(painter(key, instruction.name))
                edited = Edited(instruction=instruction, image_sha256="", scores=scores(key, instruction))
                rows.append(edit_row(key, f"{name}.tar", index, edited=edited, method=METHOD))
                moments.edits[instruction.name].update(torch.randn(1, 3, generator=generator) + 0.5)
            writer.write(key, members)
    if failed:
        with QuarantineWriter(storage, f"quarantine/{name}.tar") as quarantine:
            for sample in failed:
                quarantine.write_failed(sample)
    storage.write(f"manifests/{name}.parquet", to_parquet([*rows, *(failed_row(sample, METHOD) for sample in failed)]))
    storage.write(f"moments/{name}.npz", moments.to_npz())
    commit(storage, name, {"ok": len(keys), "quarantined": len(failed)})


def commit(storage: Storage, name: str, statuses: Mapping[str, int], *, damage: str = "") -> None:
    """Write the ledger record of a shard's files."""
    identity = Identity(input_sha256=hashlib.sha256(name.encode()).hexdigest(), config_hash="c0ffee", pack_hash="ab" * 32)
    files = {path: FileMark(sha256="", size_bytes=0) for path in output_files(name) if storage.exists(path)}
    storage.write(record_path(name), Record(shard=name, identity=identity, files=files, statuses=statuses, damage=damage).to_json())


def write_run(out: Path, instructions: Sequence[Instruction] = INSTRUCTIONS, **more: object) -> None:
    """Write run.json."""
    record: dict[str, object] = {
        "format": 1,
        "input": "s3://bucket/portraits/raw",
        "started": "2031-05-04 12:00:00 UTC",
        "seconds": 92.4,
        "images_per_s": 1.46,
        "counts": {"shards": 3},
        "this_run": {"shards": 3, "images": 1_000_000},
        "pack": {"name": "portraits64", "sha256": "ab" * 32},
        "config_hash": "c0ffee",
        "config": {"input": "s3://bucket/portraits/raw", "batch_size": 16},
        "instructions": [{"name": i.name, "expects": dict(i.expects)} for i in instructions],
        "scores": {},
        "versions": {"torch": "2.15.0"},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_text(json.dumps(record | more))
