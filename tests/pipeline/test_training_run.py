"""The run of a training: found again, written to from a worker, never in the way of the training."""

from __future__ import annotations

import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from pipeline.config import TrackingConfig
from pipeline.training_run import COMMIT_VARIABLE, Run, RunWriter, end_run, flatten, git_commit, open_run
from tests.tracking_server import Store, free_port

ROOT = Path(__file__).parents[2]
PARAMS = {"network": "e4e", "loop": {"steps": 100, "lr": 1e-3}, "widths": (8, 16), "empty": "", "long": "x" * 7000}

pytestmark = pytest.mark.timeout(900)


def open_one(store: Store, output: str, **tags: str) -> Run:
    tags = {"hyperedit.pack_sha256": "abc", **tags}
    return open_run(TrackingConfig(uri=store.uri, experiment="train"), output=output, name="e4e", params=PARAMS, tags=tags)


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def gone(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.2)
    return False


def test_a_training_that_is_resumed_goes_on_in_its_run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv(COMMIT_VARIABLE, "c0ffee")  # for a copy without git
    output = f"{tmp_path}/it's here"
    (tmp_path / "result.json").write_text("{}")
    run = open_one(store, output)
    assert run.run_id and pickle.loads(pickle.dumps(run)) == run  # noqa: S301
    with RunWriter(run) as writer:
        for step in (10, 20):
            writer.metrics(step, {"loss": 1 / step, "odd name (%)": 5})
        writer.picture(20, png("red"))
    end_run(run, status="FAILED", metrics={}, artifacts=[])
    assert open_one(store, output) == run and open_one(store, output) == run
    with RunWriter(run) as writer:
        for step in (20, 30):
            writer.metrics(step, {"loss": 1 / step})
            writer.picture(step, png("blue"))
        writer.file(tmp_path / "result.json", "results")
    client = MlflowClient(store.uri)
    assert client.get_run(run.run_id).info.status == "RUNNING"
    end_run(run, status="FINISHED", metrics={"final": 0.5}, artifacts=[str(tmp_path / "result.json")])

    found = client.get_run(run.run_id)
    assert (found.info.status, found.info.run_name, found.data.metrics["final"]) == ("FINISHED", "e4e", 0.5)
    assert found.data.tags["mlflow.source.git.commit"] == git_commit() and found.data.tags["hyperedit.pack_sha256"] == "abc"
    assert found.data.params["loop.steps"] == "100" and len(found.data.params["long"]) == 6000 and found.data.params["empty"] == ""
    assert [(point.step, point.value) for point in client.get_metric_history(run.run_id, "loss")] == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    assert found.data.metrics["odd name ___"] == 5
    text = Path(client.download_artifacts(run.run_id, "config.yaml", str(tmp_path))).read_text()
    assert yaml.safe_load(text)["loop"] == {"steps": 100, "lr": 1e-3}
    names = {entry.path for folder in ("", "results", "images") for entry in client.list_artifacts(run.run_id, folder)}
    assert {"config.yaml", "result.json", "results/result.json"} <= names
    assert sorted(name.split("+")[2] for name in names if name.endswith(".png")) == ["20", "30"]

    assert open_one(store, output) != run, "a finished run is not reopened"


def test_another_config_is_another_run_and_the_machine_is_watched(database: Store, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    first = open_one(database, str(tmp_path), **{"hyperedit.config_hash": "a"})
    assert open_one(database, str(tmp_path), **{"hyperedit.config_hash": "b"}) != first
    client, metrics, deadline = MlflowClient(database.uri), dict[str, float](), time.monotonic() + 120
    with RunWriter(first) as writer:
        writer.metrics(1, {"loss": 3})
        while "system/system_memory_usage_percentage" not in metrics and time.monotonic() < deadline:
            time.sleep(1)
            metrics = client.get_run(str(first.run_id)).data.metrics
    assert metrics["loss"] == 3 and metrics["system/system_memory_usage_percentage"] > 0


def test_an_unreachable_server_costs_the_record_and_little_time(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(uri=f"http://127.0.0.1:{free_port()}", run_id="1")
    start = time.monotonic()
    with RunWriter(run) as writer:
        for step in range(5):
            writer.metrics(step, {"loss": 1.0})
        assert time.monotonic() - start < 2
    assert time.monotonic() - start < 90
    told = capfd.readouterr().err
    assert told.count("WARNING") == 1 and "5 of 5 records" in told and run.uri in told and "not affected" in told


def test_a_server_that_never_answers_is_left_after_the_time_given(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = Run(uri=f"http://127.0.0.1:{silent.getsockname()[1]}", run_id="1")
        with RunWriter(run, finish_timeout_s=2) as writer:
            start = time.monotonic()
            for step in range(5000):
                writer.metrics(step, {"loss": 1.0})
            assert time.monotonic() - start < 5
            pid = writer.pid
        assert time.monotonic() - start < 15
    assert "5000 of 5000 records" in capfd.readouterr().err
    assert pid and gone(pid, 5)


def test_without_a_server_or_without_tracking_a_training_has_no_record(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    off = open_run(TrackingConfig(enabled=False), output=str(tmp_path), name="x", params={}, tags={})
    assert off.run_id is None and capfd.readouterr().err == ""
    lost = open_one(Store(uri=f"http://127.0.0.1:{free_port()}", artifacts=tmp_path), str(tmp_path))
    assert lost.run_id is None and "goes on without a record" in capfd.readouterr().err
    with RunWriter(lost) as writer:
        writer.metrics(1, {"loss": 1.0})
        assert writer.pid is None
    end_run(lost, status="FINISHED", metrics={}, artifacts=[])
    assert capfd.readouterr().err == ""


def test_a_database_of_another_machine_is_explained(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with RunWriter(Run(uri=f"sqlite:///{tmp_path}/absent.db", run_id="1")) as writer:
        writer.metrics(1, {"loss": 1.0})
    told = capfd.readouterr().err
    assert "1 of 1 records" in told and "no such file" in told and "mlflow server" in told
    assert not (tmp_path / "absent.db").exists()


OWNER = """
import os, sys, time
from pipeline.training_run import Run, RunWriter
with RunWriter(Run(uri=sys.argv[1], run_id=sys.argv[2])) as writer:
    held = os.fork() or time.sleep(300)  # as the loader of a data set, it keeps the pipe open
    writer.metrics(1, {"loss": 1.0})
    time.sleep(1)  # until it is in the pipe
    print(writer.pid, held, flush=True)
    time.sleep(300)
"""


def test_the_writer_ends_with_its_owner_and_keeps_what_came(database: Store, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = open_one(database, str(tmp_path))
    assert run.run_id
    command = [sys.executable, "-c", OWNER, run.uri, run.run_id]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        child, held = map(int, owner.stdout.readline().split())
        owner.kill()
    try:
        assert gone(child, 120)
    finally:
        os.kill(held, signal.SIGKILL)
    assert MlflowClient(database.uri).get_run(run.run_id).data.metrics["loss"] == 1.0


def test_params_are_flat_texts() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": None}, "e": [1], "f": {}}) == {"a.b.c": "1", "a.d": "None", "e": "[1]", "f": "{}"}


def test_the_commit_is_found_or_told_and_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training_run.shutil.which", lambda _: None)
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    assert git_commit() is None
    monkeypatch.setenv(COMMIT_VARIABLE, "c0ffee")
    assert git_commit() == "c0ffee"
