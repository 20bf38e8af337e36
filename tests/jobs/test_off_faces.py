"""Packs of anything but faces, as an import makes them: no identity, landmarks or attributes, and pictures that show no face."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.images import decode_image, fit_square
from tests.commands import Ended
from tests.jobs.world import SMILE, jpeg, members, run, write_shard
from tests.models.small_pack import write_small_pack

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

LACKING = ("identity", "landmarks", "attributes")
SIZES = ((90, 130), (64, 64), (50, 40), (200, 70))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shard of walls of every shape, one of them smaller than the pack's pictures, and one that is no picture."""
    folder, random = tmp_path_factory.mktemp("raw"), np.random.default_rng(1)
    pictures = {f"wall{i}": jpeg(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for i, size in enumerate(SIZES)}
    write_shard(folder / "part-0.tar", pictures | {"bad": b"this is no picture"})
    return folder


def edited(raw: Path, folder: Path, env: Mapping[str, str], *flags: str, without: Collection[str]) -> Ended:
    pack = write_small_pack(folder / "pack", without=without)
    common = ["--input", str(raw), "--output", str(folder / "out"), "--pack", str(pack), "--workers.threads", "1", "--workers.max", "1"]
    ended = run([*common, "--align", "centre", "--tracking.enabled", "false", *flags], env=env)
    assert ended.code == 0, ended.err[-3000:]
    return ended


def check(out: Path, raw: Path, ended: Ended) -> list[dict[str, object]]:
    """Check what all runs share and return the rows of the manifest that are not in quarantine."""
    assert (ended.result["edited"], ended.result["quarantined"]) == (4, 1) and "no landmark network" not in ended.err
    shard, sources = members(out / "shards" / "part-0.tar"), members(raw / "part-0.tar")
    for i in range(len(SIZES)):
        square = np.array(Image.open(io.BytesIO(shard[f"wall{i}.aligned.png"])))
        assert np.array_equal(square, fit_square(decode_image(sources[f"wall{i}.jpg"]), 64))
    page = re.sub(r'"data:image/[^"]*"', "", (out / "report.html").read_text())
    assert not re.search("nan|None", page) and "4 pictures" in page and "no identity network" in page
    *rows, bad = pq.read_table(out / "manifests" / "part-0.parquet").to_pylist()
    assert bad["stage"] == "decode" and [row["status"] for row in rows] == ["ok"] * 4
    empty = ("identity", "same_person", "success", "collateral")
    assert all(row[name] is None for row in rows for name in empty) and all(row["psnr"] > 0 for row in rows)
    scores = json.loads((out / "run.json").read_text())["scores"]
    assert all(not {"identity", "same_person_rate", "success_rate", "collateral"} & found.keys() for found in scores.values())
    return rows


def test_inversions_without_any_network_that_judges(raw: Path, joined: Mapping[str, str], tmp_path: Path) -> None:
    flags = ["--inverter", "w_projection", "--inverter_settings.steps", "2", "--keep", "latents"]
    ended = edited(raw, tmp_path, joined, *flags, without=(*LACKING, "clip", "hypereditor"))
    out = tmp_path / "out"
    rows = check(out, raw, ended)
    assert [row["instruction"] for row in rows] == ["inversion"] * 4 and not (out / "moments" / "part-0.npz").exists()
    record = json.loads(members(out / "shards" / "part-0.tar")["wall1.edits.json"])
    assert record["features"]["frechet"] == "not measured, since the pack has neither CLIP nor an identity network"
    assert record["inversion"]["scores"]["identity"] is None


def test_instructions_with_clip(raw: Path, joined: Mapping[str, str], tmp_path: Path) -> None:
    ended = edited(raw, tmp_path, joined, "--instructions", SMILE, without=LACKING)
    rows = check(tmp_path / "out", raw, ended)
    assert all(row["instruction"] == "smile" and -1 <= row["clip_directional"] <= 1 for row in rows)
    assert (tmp_path / "out" / "moments" / "part-0.npz").exists()
