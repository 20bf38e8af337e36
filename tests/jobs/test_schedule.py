"""Schedules on a real Ray: runs that cannot overlap, restarts, exit codes, and errors that say what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ray._private.authentication_test_utils import reset_auth_token_state

from hosting.job_runs import AlreadyDoneError, RayUnreachableError, Runs, StillRunningError, Work, fire_of
from jobs.local_ray import LocalRay
from tests.commands import ROOT, Command
from tests.tracking_server import free_port

pytestmark = pytest.mark.ray
WORD = '{"WORD": "hello"}'
JOB = """
import os, pathlib, sys, time
print("the job says", os.environ["WORD"], sys.argv[1:], flush=True)
gate = pathlib.Path(sys.argv[1])
while not gate.exists():
    time.sleep(0.1)
raise SystemExit(int(gate.read_text()))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a working folder with a job that waits for a file, whose content is its exit code."""
    work = tmp_path / "work"
    (work / "jobs").mkdir(parents=True)
    (work / "jobs" / "wait.py").write_text(JOB)
    return work


def work(name: str, folder: Path, gate: Path) -> Work:
    return Work(name=name, entrypoint=f"python jobs/wait.py {gate}", working_dir=str(folder), env={"WORD": "hello"})


def until(condition: Callable[[], bool], *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {timeout_s} s"
        time.sleep(0.2)


def scheduler(name: str, folder: Path, gate: Path, ray: LocalRay, log: Path) -> subprocess.Popen[bytes]:
    """Start a scheduler as a user does; each minute it is due."""
    flags = [
        "--cron",
        "* * * * *",
        "--name",
        name,
        "--address",
        ray.job_address,
        "--working_dir",
        str(folder),
        "--env",
        '{"WORD": "hello"}',
    ]
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "jobs/schedule.py", *flags, "--", "jobs/wait.py", str(gate)],
            cwd=ROOT, env={**os.environ, **ray.env}, stderr=said, stdout=said, start_new_session=True,
        )  # fmt: skip


def test_many_schedulers_at_once_start_one_run_and_the_next_waits_for_its_end(token: LocalRay, folder: Path, tmp_path: Path) -> None:
    gate, fire = tmp_path / "gate", datetime(2026, 11, 2, 2, 30, tzinfo=UTC)
    some = [Runs(token.job_address, work("together", folder, gate)) for _ in range(6)]
    together = threading.Barrier(len(some))

    def start(runs: Runs) -> str:
        runs.all()
        together.wait()
        try:
            return runs.start(fire)
        except StillRunningError as error:
            return f"refused: {error}"

    with ThreadPoolExecutor(len(some)) as pool:
        said = list(pool.map(start, some))
    assert sorted(one.split(":")[0] for one in said) == ["refused"] * 5 + ["together-000001"]
    with pytest.raises(
        StillRunningError, match=r"together-000001 is still (pending|running), so no run was started for 2026-11-03 02:30 UTC"
    ):
        some[0].start(fire + timedelta(days=1))
    gate.write_text("0")
    ended = some[1].follow("together-000001", stop=threading.Event())
    assert ended is not None and ended.code == 0 and ended.status == "SUCCEEDED"
    with pytest.raises(AlreadyDoneError, match="together-000001 was already started for 2026-11-02 02:30 UTC"):
        some[2].start(fire)
    assert some[2].start(fire + timedelta(days=1)) == "together-000002"
    assert some[3].follow("together-000002", stop=threading.Event()) is not None
    assert some[3].last_fire() == fire + timedelta(days=1) and some[3].live() is None


def test_now_ends_with_the_exit_code_of_the_job_and_the_end_of_its_log(
    token: LocalRay, folder: Path, tmp_path: Path, command: Command
) -> None:
    gate = tmp_path / "gate"
    gate.write_text("3")
    flags = ["--now", "--name", "once", "--address", token.job_address, "--working_dir", str(folder), "--env", '{"WORD": "good morning"}']
    done = command("jobs/schedule.py", [*flags, "--", "jobs/wait.py", str(gate)])
    assert done.code == 3, done.err
    assert "once-000001 FAILED, exit code 3" in done.err and "the job says good morning" in done.err
    gate.write_text("0")
    done = command("jobs/schedule.py", [*flags, "--", "jobs/wait.py", str(gate)])
    assert done.code == 0 and "once-000002 SUCCEEDED" in done.err
    blocked = Runs(token.job_address, work("once", folder, tmp_path / "closed"))
    run_id = blocked.start(datetime.now(UTC))
    done = command("jobs/schedule.py", [*flags, "--", "jobs/wait.py", str(gate)])
    assert done.code == 4 and f"{run_id} is still" in done.err
    (tmp_path / "closed").write_text("0")
    assert blocked.follow(run_id, stop=threading.Event()) is not None


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return a list of schedulers, which are ended by their ids."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


@pytest.mark.timeout(240)
def test_a_killed_scheduler_goes_on_where_it_was(
    token: LocalRay, folder: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log.txt"
    runs = Runs(token.job_address, work("restarted", folder, gate))
    gate.write_text("0")
    assert runs.follow(runs.start(datetime.now(UTC) - timedelta(minutes=10)), stop=threading.Event()) is not None
    gate.unlink()

    started.append(scheduler("restarted", folder, gate, token, log))
    until(lambda: runs.live() is not None)  # ten minutes were missed while there was no scheduler: one run makes up for them
    assert fire_of(runs.all()[-1]).second == 0 and len(runs.all()) == 2
    started[-1].send_signal(signal.SIGKILL)
    started[-1].wait()

    started.append(scheduler("restarted", folder, gate, token, log))
    until(lambda: "following it" in log.read_text())
    assert [job.submission_id for job in runs.all()] == ["restarted-000001", "restarted-000002"]
    gate.write_text("3")
    until(lambda: "ERROR: restarted-000002 FAILED, exit code 3" in log.read_text())
    assert "the job says hello" in log.read_text()
    started[-1].send_signal(signal.SIGTERM)
    assert started[-1].wait(timeout=30) == 0, log.read_text()
    fires = [fire_of(job) for job in runs.all()]
    assert fires == sorted(set(fires))


def test_a_ray_that_does_not_answer_is_named(command: Command, folder: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    flags = ["--name", "silent", "--address", address, "--working_dir", str(folder)]
    for when in (["--now"], ["--cron", "30 2 * * *"]):
        done = command("jobs/schedule.py", [*when, *flags, "--", "jobs/wait.py", "gate"])
        assert done.code == 5 and f"--address {address}: expected Ray's job server" in done.err and "Failed to connect" in done.err
    with pytest.raises(RayUnreachableError, match="expected Ray's job server"):
        Runs(address, work("silent", folder, folder)).live()


def test_a_token_that_is_wrong_is_named(token: LocalRay, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    reset_auth_token_state()
    with pytest.raises(RayUnreachableError, match="with the token that it asks for"):
        Runs(token.job_address, work("stranger", folder, folder)).all()
