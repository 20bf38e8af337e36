"""Jobs that are interrupted, killed, or lose their worker: the next run ends with the same bytes, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from jobs.local_ray import MARK
from tests.jobs.world import Ended, World, arguments, start, tree, wait

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(900)]

PATIENCE_S = 300.0


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds. Fails when the job ends before, or takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, f"the job ended too early: {process.communicate()}"
        assert time.monotonic() < deadline, "the job took too long"
        time.sleep(0.01)


def committed(out: Path) -> int:
    return len(list((out / "ledger").glob("*.json")))


def gone(processes: list[psutil.Process], timeout_s: float = 150) -> bool:
    """Say whether all processes end by themselves."""
    return not psutil.wait_procs(processes, timeout=timeout_s)[1]


def edit_workers(*, mark: str = "", below: int | None = None) -> list[psutil.Process]:
    """Return the processes that edit: those of a Ray started under a mark, or those below a job that started its own."""
    found = []
    for process in psutil.Process(below).children(recursive=True) if below else psutil.process_iter():
        try:
            if "StreamWorker" in " ".join(process.cmdline()) and (below or process.environ().get(MARK) == mark):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def test_the_same_command_finishes_an_interrupted_and_a_killed_job(
    finished: tuple[Path, Ended], world: World, joined: Mapping[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = arguments(world, out)
    first = start(flags, env=joined)
    until(lambda: committed(out) >= 1, first)
    first.send_signal(signal.SIGINT)
    ended = wait(first)
    assert ended.code == 130 and "the same command goes on" in ended.err and not ended.out.strip()

    already = committed(out)
    assert 1 <= already < 4
    second = start(flags, env=joined)
    until(lambda: committed(out) > already, second)
    workers = edit_workers(mark=joined[MARK])
    os.kill(second.pid, signal.SIGKILL)
    second.communicate()
    assert workers and gone(workers), "workers of the killed job live on"
    assert not (out / "report.html").exists()

    tidied = sorted((out / "ledger").glob("*.json"))[0].stem
    (out / "quarantine" / f"{tidied}.tar").unlink()  # somebody tidied up: this file belongs to a committed shard
    last = wait(start(flags, env=joined))
    assert last.code == 0, last.err[-3000:]
    assert "took over the output from a job that died" in last.err and "finished already" in last.err and "done again" in last.err
    assert last.result["images"] == 24 and tree(out) == tree(finished[0])
    with sqlite3.connect(tmp_path / "mlruns.db") as database:
        states = [state for (state,) in database.execute("select status from runs order by start_time")]
    assert states[0] == "KILLED" and states[-1] == "FINISHED" and "RUNNING" not in states


@pytest.mark.long
def test_a_killed_worker_costs_nothing_but_time(finished: tuple[Path, Ended], world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = start(arguments(world, out, "--tracking.enabled", "false"))  # with a Ray of its own
    until(lambda: committed(out) >= 1, job)
    (worker,) = edit_workers(below=job.pid)
    worker.kill()
    children = psutil.Process(job.pid).children(recursive=True)
    ended = wait(job)
    assert ended.code == 0, ended.err[-3000:]
    assert gone(children), "processes of the job's own Ray live on"
    assert tree(out) == tree(finished[0])
    assert json.loads((out / "run.json").read_text())["counts"]["edited"] == 12


def test_two_jobs_never_write_one_output(world: World, joined: Mapping[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    holder = start(arguments(world, out), env=joined)
    until((out / ".work" / "lock.json").exists, holder)
    refused = wait(start(arguments(world, out)))
    assert refused.code == 2 and "another job is writing there" in refused.err and str(holder.pid) in refused.err
    holder.send_signal(signal.SIGINT)
    assert wait(holder).code == 130
