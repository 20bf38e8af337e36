"""Trainings as a user runs them: stopped, robbed of a worker, killed, and still the weights of an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from jobs.local_ray import MARK
from models.pack import Pack
from tests.jobs.world import ROOT, Ended, clean_environment, wait

JOB = str(ROOT / "jobs" / "train.py")
SETTINGS = ["--settings.steps", "40", "--settings.pictures", "60", "--settings.batch", "4", "--settings.measured", "8"]
LOOP = ["--loop.checkpoint_every", "4", "--loop.log_every", "1", "--loop.sheet_every", "20"]
PATIENCE_S = 280.0

ray_job = pytest.mark.ray("train")
slow = pytest.mark.timeout(900)


def arguments(out: Path, *more: str) -> list[str]:
    """Return the flags of a short training of e4e on the committed pack: steps that take a while, and no CLIP to load."""
    return ["--network", "e4e", "--output", str(out), *SETTINGS, *LOOP, *more]


def start(flags: list[str], *, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the job as a user does."""
    return subprocess.Popen(
        [sys.executable, JOB, *flags], cwd=ROOT, env={**(env or clean_environment()), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def run(flags: list[str], *, env: Mapping[str, str] | None = None) -> Ended:
    return wait(start(flags, env=env))


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, f"the job ended too early: {process.communicate()}"
        assert time.monotonic() < deadline, "the job took too long"
        time.sleep(0.02)


def newest(out: Path) -> int:
    """Return the step of the newest checkpoint."""
    steps = [int(path.stem.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*.safetensors")]
    return max(steps, default=0)


def weights(out: Path) -> str:
    return hashlib.sha256((out / "pack" / "e4e.safetensors").read_bytes()).hexdigest()


def losses(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def workers(mark: str) -> list[psutil.Process]:
    """Return the processes of Ray Train that train, of a Ray started under a mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()) and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(joined: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Return the output of an undisturbed training with two workers, and how it ended."""
    out = tmp_path_factory.mktemp("trained") / "out"
    flags = arguments(out, "--workers.count", "2", "--register.model", "small")
    return out, run(flags, env=joined)


@ray_job
@slow
def test_a_training_leaves_a_pack_a_log_and_one_run(undisturbed: tuple[Path, Ended]) -> None:
    out, ended = undisturbed
    assert ended.code == 0, ended.err[-3000:]
    result = ended.result
    assert result["finished"] and result["steps"] == 40 and result["registered"] == {"model": "small", "version": "1", "alias": "champion"}
    pack = Pack.load(out / "pack")
    numbers = pack.info.networks["e4e"].numbers
    assert pack.sha256 == result["sha256"] and numbers["psnr_db"] == result["numbers"]["psnr_db"]
    trained = pack.info.provenance["trained"]["e4e"]
    assert trained["settings"]["batch"] == 4 and trained["leans_on"] == Pack.load(ROOT / "packs" / "portraits64").sha256
    assert [step for step, _ in losses(out)] == list(range(1, 41))
    assert sorted(path.name for path in (out / "sheets").iterdir()) == ["step-000020.png", "step-000040.png"]
    assert not (out / ".work").exists()
    with sqlite3.connect(out.parent / "mlruns.db") as database:
        assert database.execute("select run_uuid, status from runs").fetchall() == [(result["mlflow_run_id"], "FINISHED")]
        logged = dict(database.execute("select key, max(step) from metrics group by key").fetchall())
        params = dict(database.execute("select key, value from params").fetchall())
    assert logged["loss"] == logged["learning_rate"] == logged["images_per_s"] == 40 and "system/cpu_utilization_percentage" in logged
    assert params["settings.batch"] == "4" and params["workers.count"] == "2"


@ray_job
@slow
@pytest.mark.chaos
def test_stopped_robbed_and_killed_it_still_ends_with_the_same_weights(
    undisturbed: tuple[Path, Ended], joined: Mapping[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = arguments(out, "--workers.count", "2")

    asked = start(flags, env=joined)
    until(lambda: newest(out) >= 4, asked)
    asked.send_signal(signal.SIGINT)
    ended = wait(asked)
    assert ended.code == 130 and "the same command goes on" in ended.err, ended.err[-3000:]
    stopped = newest(out)
    assert ended.result["step"] == stopped < 40 and not ended.result["finished"]

    robbed = start(flags, env=joined)
    until(lambda: newest(out) > stopped, robbed)
    victims = workers(joined[MARK])
    assert len(victims) == 2
    chance = random.random()
    print(f"killed: worker {int(2 * chance)}, {0.2 * chance:.3f} s after a checkpoint")  # shown where the test fails
    time.sleep(0.2 * chance)
    victims[int(2 * chance)].kill()
    after = newest(out)
    until(lambda: newest(out) >= min(after + 8, 36), robbed)
    os.kill(robbed.pid, signal.SIGKILL)
    robbed.communicate()
    assert newest(out) < 40

    last = run(flags, env=joined)
    assert last.code == 0, last.err[-3000:]
    assert "goes on at step" in last.err and "took over the output from a job that died" in last.err
    assert weights(out) == weights(undisturbed[0]) and losses(out) == losses(undisturbed[0])
    with sqlite3.connect(tmp_path / "mlruns.db") as database:
        (runs,) = database.execute("select count(*) from runs").fetchone()
        steps = [step for (step,) in database.execute("select step from metrics where key = 'loss' order by step")]
    assert runs == 1 and sorted(set(steps)) == list(range(1, 41)) and len(steps) == 40


@ray_job
@slow
@pytest.mark.long
def test_what_would_fail_again_is_told_and_not_tried_again(joined: Mapping[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = run(arguments(out, "--settings.rate", "1e30", "--workers.max_failures", "1", "--tracking.enabled", "false"), env=joined)
    assert ended.code == 1 and "FloatingPointError: the loss is" in ended.err, ended.err[-3000:]
    assert "Traceback" not in ended.err and ended.err.count("goes on at step") <= 1
    assert not (out / "pack").exists() and not (out / ".work").exists()


@slow
@pytest.mark.long
def test_without_ray_two_workers_of_torchrun_train_the_same(undisturbed: tuple[Path, Ended], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", JOB]
    flags = arguments(out, "--plain", "--workers.threads", "1", "--tracking.enabled", "false")
    done = subprocess.run(
        [*command, *flags], cwd=ROOT, env={**clean_environment(), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights(out) == weights(undisturbed[0])
