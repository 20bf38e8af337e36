"""The whole pack by one command, with the shortest recipe: numbers and times in pack.yaml and in MLflow, runs of stages below one run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from models.pack import Pack
from training.pack import recipe

ROOT = Path(__file__).parents[2]
SCALE = 0.001


def train_pack(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the job; everything that it leaves is in a folder."""
    own = ["--scale", str(SCALE), "--work", str(folder / "work"), "--output", str(folder / "pack"), *more]
    return subprocess.run(
        [sys.executable, "jobs/train_pack.py", *own], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.timeout(1500)
def test_one_command_trains_records_and_joins_every_network(tmp_path: Path) -> None:
    done = train_pack(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    pack = Pack.load(tmp_path / "pack")
    assert set(pack.info.networks) == {"clip", "identity", "attributes", "landmarks", "generator", "e4e", "w_encoder", "hypereditor"}
    made, plan = pack.info.provenance, recipe(SCALE)
    assert set(made["stage_seconds"]) == set(plan.stages) and made["scale"] == SCALE  # type: ignore[call-overload]
    assert 0 < float(made["seconds"]) == pytest.approx(told["seconds"], abs=0.2)  # type: ignore[arg-type]
    assert set(made["ablation"]) == {"directional", "global"}  # type: ignore[call-overload]

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns.db'}")
    [experiment] = [found for found in client.search_experiments() if found.name == "train_pack"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"pack", *plan.stages}
    assert all(run.info.status == "FINISHED" for run in runs.values())
    whole = runs.pop("pack")
    assert whole.info.run_id == told["mlflow_run_id"] == made["mlflow_run"]
    assert all(run.data.tags["mlflow.parentRunId"] == whole.info.run_id for run in runs.values())
    recorded = {f"{network}/{name}": value for network, found in told["numbers"].items() for name, value in found.items()}
    assert recorded and {name: whole.data.metrics[name] for name in recorded} == pytest.approx(recorded)
    assert "pack.yaml" in {file.path for file in client.list_artifacts(whole.info.run_id)}
    for name, run in runs.items():
        assert math.isfinite(run.data.metrics["loss"]), name
        assert "log.jsonl" in {file.path for file in client.list_artifacts(run.info.run_id)}, name

    again = train_pack(tmp_path, "--tracking.enabled", "false")
    assert again.returncode == 0 and "==>" not in again.stderr, "finished stages are not trained again"
    assert Pack.load(tmp_path / "pack").info.networks == pack.info.networks


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--scale", "0"], "--scale 0.0: expected more than 0"),
        (["--stage", "unknown"], "--stage unknown: expected one of clip, base"),
        (["--stage", "e4e"], "--stage e4e needs generator, identity, attributes first"),
        (["--output", "packs/portraits64"], "would replace packs/portraits64"),
        (["--parallel", "0"], "--parallel 0: expected 1 or more"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, more: list[str], said: str) -> None:
    done = train_pack(tmp_path, *more)
    assert done.returncode == 2 and said in done.stderr
    assert not list(tmp_path.iterdir())
