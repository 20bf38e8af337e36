"""The whole pack by one command, with the shortest recipe: numbers and times in pack.yaml and in MLflow, runs of stages below one run."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from jobs import train_pack as job
from models.pack import Pack
from pipeline.config import TrackingConfig
from pipeline.lock import LOCK, FolderLock
from pipeline.storage import Storage
from pipeline.training_run import Run
from tests.commands import Command
from training.objective import kind_of
from training.pack import DONE, recipe

ROOT = Path(__file__).parents[2]
SCALE = 0.001


def flags(folder: Path) -> list[str]:
    """Return the flags of the shortest recipe; everything that the job leaves is in a folder."""
    return ["--scale", str(SCALE), "--work", str(folder / "work"), "--output", str(folder / "pack")]


def train_pack(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the job in a process of its own."""
    return subprocess.run(
        [sys.executable, "jobs/train_pack.py", *flags(folder), *more], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_one_command_trains_records_and_joins_every_network(tmp_path: Path) -> None:
    done = train_pack(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    pack = Pack.load(tmp_path / "pack")
    made, plan = pack.info.provenance, recipe(SCALE)
    assert set(pack.info.networks) == {kind_of(plan.stages[name].network).network for name in plan.packed()}
    assert {"generator", "e4e", "w_encoder", "psp", "restyle_e4e", "restyle_psp", "hyperstyle", "hypereditor"} <= set(pack.info.networks)
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
        (["--without", "[psp]"], "stage restyle_psp needs psp: leave out restyle_psp too"),
        (["--without", "[hyper]"], "no stage 'hyper': expected some of clip, base"),
        (
            ["--without", "[hypereditor,landmarks]", "--scale", "1", "--output", "packs/portraits64"],
            "would be replaced by a pack without hypereditor, landmarks",
        ),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, more: list[str], said: str, command: Command) -> None:
    done = command("jobs/train_pack.py", [*flags(tmp_path), *more])
    assert done.code == 2 and said in done.err
    assert not list(tmp_path.iterdir())


def options(folder: Path, **more: object) -> job.Options:
    unrecorded = TrackingConfig(enabled=False)
    return job.Options(scale=SCALE, work=folder / "work", output=folder / "pack", tracking=unrecorded, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "work", "said"),
    [
        ("home", "work", "holds diary.txt and no pack.yaml"),
        ("home/diary.txt", "work", "expected a folder, found a file"),
        ("new", "new/work", "which is replaced at the end"),
        ("new", "new", "which is replaced at the end"),
        ("work/base/pack", "work", "lies in the folder of a stage"),
    ],
)
def test_an_output_that_is_no_pack_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, work: str, said: str
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("dear diary")
    assert job.main(["--output", str(tmp_path / output), "--work", str(tmp_path / work)]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["home", "diary.txt"]


def test_an_empty_folder_and_a_pack_are_replaced(tmp_path: Path) -> None:
    assert job.check(options(tmp_path)) is None
    (tmp_path / "pack").mkdir()
    assert job.check(options(tmp_path)) is None
    (tmp_path / "pack" / "pack.yaml").write_text("name: old")
    assert job.check(options(tmp_path)) is None


def test_a_second_command_on_the_same_work_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], restored: None) -> None:
    lock = FolderLock(Storage(str(tmp_path / "work")))
    lock.acquire()
    try:
        code = job.main(["--scale", str(SCALE), "--work", str(tmp_path / "work"), "--output", str(tmp_path / "pack")])
    finally:
        lock.release()
    said = capsys.readouterr().err
    assert code == 2 and f"--work {tmp_path / 'work'}: another job is writing there" in said and "--output" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["work"] and not (tmp_path / "work" / "seconds.json").exists()


@pytest.mark.timeout(60)
def test_a_signal_stops_the_command_and_its_stages(tmp_path: Path, capfd: pytest.CaptureFixture[str], restored: None) -> None:
    plan, work, stages = recipe(SCALE), tmp_path / "work", list[psutil.Process]()
    (work / "clip").mkdir(parents=True)
    (work / "clip" / DONE).write_text(plan.fingerprint("clip"))  # the next one, base, is long enough to be interrupted
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts a command in the background

    def interrupt() -> None:
        while not (work / "base" / LOCK).is_file():
            time.sleep(0.02)
        stages.extend(child for child in psutil.Process().children(recursive=True) if str(work) in child.cmdline())
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=interrupt, daemon=True)
    other.start()
    own = ["--scale", str(SCALE), "--work", str(work), "--output", str(tmp_path / "pack"), "--parallel", "1"]
    assert job.main([*own, "--tracking.enabled", "false"]) == 130
    other.join()
    said = capfd.readouterr().err
    assert "interrupted; the same command goes on" in said and "Traceback" not in said
    assert stages and not any(stage.is_running() for stage in stages)
    assert "stage base stopped at step 5 of 8" in said and not plan.is_done("base", work)
    assert not (work / LOCK).exists() and not (work / "base" / LOCK).exists() and not (tmp_path / "pack").exists()


def test_a_stage_stops_at_a_checkpoint_when_its_driver_is_gone(tmp_path: Path, restored: None) -> None:
    own = ["--scale", str(SCALE), "--work", str(tmp_path), "--stage", "base", "--tracking.enabled", "false"]
    assert job.main([*own, "--driver", "999999999"]) == 130
    result = json.loads((tmp_path / "base" / "result.json").read_text())
    assert (result["step"], result["finished"]) == (5, False)
    assert list((tmp_path / "base" / "checkpoints").iterdir()) and not (tmp_path / "base" / DONE).exists()


def deaf(given: job.Options, name: str, _run: Run) -> list[str]:
    """Return a stage that hears no SIGTERM."""
    code = "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.mkdir(sys.argv[1]); time.sleep(60)"
    return [sys.executable, "-c", code, str(given.work / name)]


def test_the_time_is_kept_while_stages_run_and_one_that_does_not_stop_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"stage_command": deaf, "POLL_S": 0.02, "SAVE_S": 0.1, "STOP_TIMEOUT_S": 0.5}.items():
        monkeypatch.setattr(job, name, value)
    given, stop = options(tmp_path, parallel=1), job.Stop()
    given.work.mkdir()
    kept: list[float] = []

    def interrupt() -> None:
        while not (given.work / "clip").exists() or not kept or kept[-1] < 0.3:
            time.sleep(0.05)
            kept.extend([job.Spent(given.work).seconds] if (given.work / job.SPENT).exists() else [])
        stop.asked = True

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        job.train_all(recipe(SCALE), given, Run(uri=""), stop=stop, spent=job.Spent(given.work))
    other.join()
    assert stop.running["clip"].returncode == -signal.SIGKILL
    assert "stage clip did not stop" in capsys.readouterr().err
    assert 0.3 <= kept[-1] < 30


def test_a_second_signal_ends_everything_at_once(monkeypatch: pytest.MonkeyPatch, restored: None) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(job.os, "_exit", leave)
    stop = job.Stop()
    stop.running["base"] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stop.listen()
    signal.raise_signal(signal.SIGTERM)
    assert stop.is_set() and stop.running["base"].poll() is None
    with pytest.raises(SystemExit, match="130"):
        signal.raise_signal(signal.SIGINT)
    assert stop.running["base"].wait(timeout=10) == -signal.SIGKILL


def test_a_stage_waits_for_its_driver_to_end_it(restored: None) -> None:
    stop = job.Stop(driver=os.getppid())
    stop.listen()
    assert not stop.is_set()
    for _ in range(3):  # Ctrl-C in a terminal reaches the stage, and so does what its driver sends it then
        signal.raise_signal(signal.SIGINT)
    assert stop.is_set()
