"""A run without instructions aligns and inverts only: what it writes, what its report shows, and that training reads it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.images import decode_image
from tests.jobs.world import World, arguments, members, run
from training.shards import ShardPictures

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SCORES = {"psnr", "ssim", "lpips", "identity", "same_person"}
Ended = tuple[Path, dict[str, object], str]


def without_instructions(world: World, out: Path, *more: str) -> list[str]:
    flags = arguments(world, out)
    return [*flags[: flags.index("--instructions")], *more]


@pytest.fixture(scope="module")
def inverted(world: World, joined: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Invert the world with a pack that has no editor yet: the one that the latents are to train."""
    out = tmp_path_factory.mktemp("inverted") / "out"
    ended = run(without_instructions(world, out, "--keep", "latents", "--editor", "none_yet", "--tracking.enabled", "false"), env=joined)
    assert ended.code == 0, ended.err[-3000:]
    return out, ended.result, ended.err


def test_every_good_picture_is_aligned_inverted_and_counted(inverted: Ended, world: World) -> None:
    out, result, said = inverted
    counts = {name: result[name] for name in ("samples", "edited", "quarantined", "images")}
    assert counts == {"samples": 16, "edited": 12, "quarantined": 4, "images": 12}
    assert "no instructions: align and invert only" in said
    for name, keys in world.keys.items():
        exts = ("aligned.png", "edits.json", "inversion.png", "json", "latents.npy", "txt")
        assert list(members(out / "shards" / f"{name}.tar")) == [f"{key}.{ext}" for key in keys if not key.endswith("bad") for ext in exts]


def test_the_inversion_is_what_the_generator_makes_of_the_latents_and_is_scored(inverted: Ended, world: World) -> None:
    out, _, _ = inverted
    found = members(out / "shards" / "part-1.tar")
    rows = pq.read_table(out / "manifests" / "part-1.parquet").to_pylist()
    assert [(row["instruction"], row["status"]) for row in rows] == [("inversion", "ok")] * 3 + [("", "quarantined")]
    for row in rows[:3]:
        record = json.loads(found[f"{row['key']}.edits.json"])
        assert record["instructions"] == [] and record["inversion"]["image_sha256"] == row["image_sha256"]
        assert set(record["inversion"]["scores"]) == SCORES and row["editor"] == "" and row["clip_score"] is None
        pixels = {ext: np.array(Image.open(io.BytesIO(found[f"{row['key']}.{ext}.png"])), float) for ext in ("aligned", "inversion")}
        error = ((pixels["aligned"] - pixels["inversion"]) ** 2).mean() / 255**2
        assert row["psnr"] == pytest.approx(-10 * np.log10(error), rel=1e-4) and row["strength"] == 0


def test_the_report_shows_the_inversions_and_speaks_of_no_edits(inverted: Ended) -> None:
    page = re.sub(r'"data:image/webp[^"]*"', '"PICTURE"', (inverted[0] / "report.html").read_text())
    assert "12 portraits aligned and inverted, none edited" in page and 'id="i-inversion"' in page
    assert "Highest PSNR score" in page and "Left the aligned input, right what the generator makes of its latents" in page
    assert page.count("PICTURE") >= 24 and "no picture<" not in page
    for word in ("by 1 instruction", "show what was asked", "What else changed", "nan", "strength 0"):
        assert word not in page
    with Image.open(inverted[0] / "sheet.png") as sheet:
        assert sheet.width < 400  # source and inversion, no more columns


def test_training_reads_what_the_run_wrote(inverted: Ended) -> None:
    out, _, _ = inverted
    data = ShardPictures.open(str(out / "shards"), size=64, latents=True)
    assert len(data) == 12 and not data.left_out
    rows = torch.tensor([4, 0])
    for place, row in enumerate(rows.tolist()):
        shard, _, key = data.name(row).partition("/")
        stored = members(out / "shards" / f"{shard}.tar")
        assert np.array_equal(data.pictures(rows)[place].permute(1, 2, 0), decode_image(stored[f"{key}.aligned.png"]))
        assert np.array_equal(data.latents(rows)[place], np.load(io.BytesIO(stored[f"{key}.latents.npy"])))
