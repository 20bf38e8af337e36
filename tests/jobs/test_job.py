"""What a user gets from one undisturbed run that was submitted to Ray, from a second one, and from a preview."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.stage_clock import STAGES
from tests.commands import Command, Ended
from tests.jobs.world import World, arguments, members, run, tree

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

JOB = "jobs/edit_dataset.py"
Finished = tuple[Path, Ended]


def test_the_job_ends_well_and_says_what_it_did(finished: Finished) -> None:
    out, ended = finished
    assert ended.code == 0, ended.err[-3000:]
    result = ended.result
    counts = {name: result[name] for name in ("shards", "samples", "edited", "quarantined", "images", "damaged_shards")}
    assert counts == {"shards": 4, "samples": 16, "edited": 12, "quarantined": 4, "images": 24, "damaged_shards": 0}
    assert result["output"] == str(out) and result["report"] == str(out / "report.html")
    assert result["images_per_s"] > 0 and 0 < result["seconds"] < result["seconds_total"]  # type: ignore[operator]
    assert "16/16 samples" in ended.err and "4 failed" in ended.err and "images/s" in ended.err


def test_output_shards_mirror_the_input(finished: Finished, world: World) -> None:
    out, _ = finished
    for name, keys in world.keys.items():
        raw, edited = members(world.raw / f"{name}.tar"), members(out / "shards" / f"{name}.tar")
        good = [key for key in keys if not key.endswith("bad")]
        exts = ("aligned.png", "beard.png", "edits.json", "json", "smile.png", "txt")
        assert list(edited) == [f"{key}.{ext}" for key in good for ext in exts]
        for key in good:
            assert edited[f"{key}.json"] == raw[f"{key}.json"] and edited[f"{key}.txt"] == raw[f"{key}.txt"]
            sizes = {Image.open(io.BytesIO(edited[f"{key}.{ext}"])).size for ext in ("aligned.png", "smile.png", "beard.png")}
            assert sizes == {(64, 64)}
            assert len({edited[f"{key}.{ext}"] for ext in ("aligned.png", "smile.png", "beard.png")}) == 3


def test_edits_json_says_how_each_picture_was_made(finished: Finished, world: World) -> None:
    out, _ = finished
    record = json.loads(members(out / "shards" / "part-1.tar")["1001.edits.json"])
    assert (record["key"], record["shard"], record["index"]) == ("1001", "part-1", 1)
    assert (record["inverter"], record["editor"], record["backend"]) == ("e4e", "hypereditor", "torch-cpu")
    assert len(record["pack"]) == 64 and set(record["features"]) == {"lpips", "frechet"}
    smile, beard = record["instructions"]
    assert (smile["name"], smile["source"], smile["target"], smile["strength"]) == ("smile", "a face", "a smiling face", 1.2)
    assert beard["strength"] == 1.0 and {"psnr", "identity", "clip_directional", "lpips"} <= set(smile["scores"])


def test_the_manifest_has_one_row_per_edit_and_one_per_failure(finished: Finished) -> None:
    out, _ = finished
    for shard in range(4):
        rows = pq.read_table(out / "manifests" / f"part-{shard}.parquet").to_pylist()
        expected = [(index, name) for index in range(3) for name in ("smile", "beard")] + [(3, "")]
        assert [(row["index"], row["instruction"]) for row in rows] == expected
        assert {row["shard"] for row in rows} == {f"part-{shard}"}
        assert all(row["status"] == "ok" and row["success"] is None and -1 <= row["identity"] <= 1 for row in rows[:-1])
        failed = rows[-1]
        assert (failed["status"], failed["stage"], failed["psnr"]) == ("quarantined", "decode", None)
        assert "no picture that can be read" in failed["reason"]


def test_failed_samples_lie_in_quarantine_untouched(finished: Finished, world: World) -> None:
    out, _ = finished
    kept = members(out / "quarantine" / "part-2.tar")
    assert kept["2bad.jpg"] == b"this is no picture" and kept["2bad.txt"] == b"a face"
    reason = json.loads(kept["2bad.quarantine.json"])
    assert (reason["stage"], reason["shard"], reason["index"]) == ("decode", "part-2", 3)


def test_run_json_and_the_report_tell_the_run(finished: Finished, world: World) -> None:
    out, ended = finished
    record = json.loads((out / "run.json").read_text())
    assert record["counts"]["images"] == 24 and record["this_run"]["shards"] == 4
    stages = record["this_run"]["stage_seconds"]
    assert list(stages) == list(STAGES) and all(stages[stage] > 0 for stage in STAGES)
    assert sum(stages.values()) == pytest.approx(record["this_run"]["worker_seconds"], rel=0.02, abs=0.1)
    assert record["config"]["batch_size"] == 3 and record["pack"]["name"] == "small"
    assert [one["name"] for one in record["instructions"]] == ["smile", "beard"]
    assert set(record["scores"]) == {"smile", "beard"} and "identity" in record["scores"]["smile"]
    assert record["config_hash"][:12] in ended.err
    page = (out / "report.html").read_text()
    assert "smile" in page and "data:image/" in page


def test_the_run_is_in_mlflow(finished: Finished) -> None:
    out, ended = finished
    with sqlite3.connect(out.parent / "mlruns.db") as database:
        run_id = ended.result["mlflow_run_id"]
        ((status, artifacts),) = database.execute("select status, artifact_uri from runs where run_uuid = ?", (run_id,))
        metrics = dict(database.execute("select key, value from metrics where run_uuid = ?", (run_id,)))
        params = dict(database.execute("select key, value from params where run_uuid = ?", (run_id,)))
    assert status == "FINISHED"
    assert metrics["images"] == 24 and metrics["quarantined"] == 4 and -1 <= metrics["smile/identity"] <= 1
    assert params["inverter"] == "e4e" and params["instruction.smile"] == "a face -> a smiling face @1.2"
    logged = Path(artifacts.removeprefix("file://"))
    assert (logged / "report.html").is_file() and (logged / "run.json").is_file()


def test_a_second_run_finds_nothing_to_do(finished: Finished, world: World, command: Command) -> None:
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = command(JOB, arguments(world, out))
    assert again.code == 0 and "nothing to do" in again.err
    assert again.result["shards_this_run"] == 0 and again.result["images"] == 24 and again.result["mlflow_run_id"] is None
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_other_settings_are_refused_until_somebody_decides(finished: Finished, world: World, command: Command) -> None:
    out, _ = finished
    before = tree(out)
    refused = command(JOB, arguments(world, out, "--keep", "latents"))
    assert refused.code == 2 and "another configuration" in refused.err and "--reprocess changed" in refused.err
    assert tree(out) == before


def test_a_preview_edits_the_first_samples_only(world: World, joined: Mapping[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = arguments(world, out, "--preview", "2", "--keep", "original", "inversion", "latents", "--tracking.enabled", "false")
    ended = run(flags, env=joined)
    assert ended.code == 0, ended.err[-3000:]
    assert ended.result["samples"] == 2 and (out / "preview" / "report.html").is_file()
    assert [path.name for path in out.iterdir()] == ["preview"]
    edited = members(out / "preview" / "shards" / "part-0.tar")
    assert {name for name in edited if name.startswith("0000.")} == {
        f"0000.{ext}"
        for ext in ("aligned.png", "beard.png", "edits.json", "inversion.png", "jpg", "json", "latents.npy", "smile.png", "txt")
    }
    assert edited["0000.jpg"] == members(world.raw / "part-0.tar")["0000.jpg"]
