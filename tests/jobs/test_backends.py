"""Whole jobs on a backend: the pictures of eager within a step of 8 bits, and one output from one backend."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.edit_dataset import main
from pipeline.backend_names import canonical
from tests.commands import Ended
from tests.jobs.world import World, arguments, members, run, tree

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
LAST_DIGIT = 2e-3
"""Of scores; a pixel that rounds to its neighbour moves a score by less."""


@pytest.fixture(scope="module")
def on_onnx(world: World, joined: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Return the output of a run on ONNX Runtime, and how it ended."""
    out = tmp_path_factory.mktemp("onnx") / "out"
    return out, run(arguments(world, out, "--backend", "onnxruntime"), env=joined)


def pixels(out: Path, shard: str) -> dict[str, np.ndarray]:
    pictures = {name: data for name, data in members(out / "shards" / f"{shard}.tar").items() if name.endswith(".png")}
    return {name: np.asarray(Image.open(io.BytesIO(data)), dtype=np.int16) for name, data in pictures.items()}


def test_the_pictures_are_those_of_eager(finished: tuple[Path, Ended], on_onnx: tuple[Path, Ended], world: World) -> None:
    (eager, _), (out, ended) = finished, on_onnx
    assert ended.code == 0, ended.err[-3000:]
    assert {path.replace(str(out), "") for path in tree(out)} == {path.replace(str(eager), "") for path in tree(eager)}
    for shard in world.keys:
        expected, found = pixels(eager, shard), pixels(out, shard)
        assert expected and list(found) == list(expected)
        assert max(int(np.abs(found[name] - expected[name]).max()) for name in expected) <= 1
        for row, reference in zip(
            *(pq.read_table(root / "manifests" / f"{shard}.parquet").to_pylist() for root in (out, eager)), strict=True
        ):
            assert (row["key"], row["status"], row["backend"]) == (reference["key"], reference["status"], "onnxruntime-cpu")
            assert row["identity"] is None or abs(row["identity"] - reference["identity"]) < LAST_DIGIT


def test_the_record_says_what_was_asked_for_and_what_ran(on_onnx: tuple[Path, Ended], finished: tuple[Path, Ended]) -> None:
    said = [json.loads((out / "run.json").read_text())["backend"] for out in (on_onnx[0], finished[0])]
    assert said[0] == {"asked": "onnxruntime", "used": "onnxruntime", "ran": ["onnxruntime-cpu"], "notes": []}
    assert said[1] == {"asked": "eager", "used": "eager", "ran": ["torch-cpu"], "notes": []}


def test_another_backend_does_not_go_on_with_an_output(
    on_onnx: tuple[Path, Ended], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = on_onnx
    assert main([*arguments(world, out), "--dry_run"]) == 2
    assert "another configuration" in capsys.readouterr().err
    assert main([*arguments(world, out, "--backend", "auto"), "--dry_run"]) == 0
    said = capsys.readouterr()
    assert "--backend auto goes on with onnxruntime, which this output was begun with" in said.err and json.loads(said.out)["todo"] == 0


def test_auto_takes_what_works_and_says_why(world: World, joined: Mapping[str, str], tmp_path: Path) -> None:
    ended = run(arguments(world, tmp_path / "out", "--backend", "auto", "--preview", "2"), env=joined)
    assert ended.code == 0, ended.err[-3000:]
    record = json.loads((tmp_path / "out" / "preview" / "run.json").read_text())
    used = record["backend"]["used"]
    assert record["backend"]["asked"] == "auto" and canonical(used) == used != "auto" and record["config"]["backend"] == used
    mixed = f"{used} on cpu, torch-cpu" if "=" in used else f"{used}-cpu"  # one name where one backend is the fastest for all
    assert record["backend"]["ran"] == ["torch-cpu" if used == "eager" else mixed]
    assert f"edit: --backend auto takes {used}: " in ended.err


@pytest.mark.parametrize("backend", ["eager", pytest.param("auto", marks=pytest.mark.long)])  # what is compiled takes minutes
def test_a_worker_finds_out_what_is_left_to_it_and_a_resumed_run_keeps_that(
    world: World, joined: Mapping[str, str], tmp_path: Path, backend: str
) -> None:
    out, chosen = tmp_path / "out", ("--backend", backend, "--precision", "auto", "--batch_size", "auto")
    ended = run([*arguments(world, out, *chosen), "--input", str(world.raw / "part-0.tar")], env=joined)
    assert ended.code == 0, ended.err[-3000:]
    record = json.loads((out / "run.json").read_text())
    used = {name: record[name]["used"] for name in ("backend", "precision", "batch_size")}
    asked = {name: record[name]["asked"] for name in used}
    assert asked == {"backend": backend, "precision": "auto", "batch_size": "auto"} and "auto" not in used.values()
    assert f"--precision auto takes {used['precision']}" in record["backend"]["notes"]
    assert f"edit: --batch_size auto takes {used['batch_size']}" in ended.err
    record["batch_size"]["used"] = 3  # what another machine might have found
    (out / "run.json").write_text(json.dumps(record))
    again = run(arguments(world, out, *chosen), env=joined)
    assert again.code == 0 and again.result["shards_this_run"] == len(world.keys) - 1, again.err[-3000:]
    assert f"--precision auto goes on with {used['precision']} and --batch_size auto goes on with 3" in again.err
    now = json.loads((out / "run.json").read_text())
    assert {name: now[name]["used"] for name in used} == used | {"batch_size": 3}


def test_a_backend_that_cannot_run_here_ends_the_job_with_the_reason(world: World, joined: Mapping[str, str], tmp_path: Path) -> None:
    ended = run(arguments(world, tmp_path / "out", "--backend", "tensorrt", "--preview", "2"), env=joined)
    assert ended.code == 2, ended.err[-3000:]
    assert "edit_dataset: --backend tensorrt: TensorRT needs an NVIDIA GPU and --device is cpu" in ended.err
    assert "Traceback" not in ended.err.split("edit_dataset: ")[-1]
