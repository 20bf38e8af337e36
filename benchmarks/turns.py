"""Let two trainings take turns on the same machine: while one trains, every process of the other is frozen.

A machine that is shared gets faster and slower by a third within minutes, so two trainings that follow each other compare moments, not
hosts. Here both are alive, warm, and run for a while at a time.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Self

import psutil

from hosting.ray_train import StopMark

STEP = re.compile(r" (\d+)/\d+, loss ")
STOPPED = "train: stopped at step"
START_TIMEOUT_S = 300.0
END_TIMEOUT_S = 120.0
LOOK_EVERY_S = 0.2


class Training:
    """A training in processes of its own: started, frozen, thawed, and stopped at a checkpoint, which writes its log.

    `worker` is what the command lines of those processes have in common that train. `trained_s` and `hosted_s` are the CPU seconds that
    these and all others (the host's) took between thawing and freezing. A Ray of RAY_ADDRESS is not used: its processes would be no
    descendants of the command. Every method raises RuntimeError, with what the training said, when it has ended.
    """

    def __init__(self, command: Sequence[str], *, output: Path, cwd: Path, worker: str) -> None:
        self._command, self._cwd, self._worker = command, cwd, worker
        self._output, self._said = output, output.with_suffix(".txt")
        self._seen: dict[int, psutil.Process] = {}
        self._thawed: dict[int, float] | None = None
        self.trained_s = self.hosted_s = 0.0

    def __enter__(self) -> Self:
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(self._command, cwd=self._cwd, env=env, stdout=said, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def wait_for_step(self, step: int) -> None:
        """Wait until it says that it has come that far."""
        until = time.monotonic() + START_TIMEOUT_S
        while max((int(found) for found in STEP.findall(self._said.read_text())), default=0) < step:
            self._check(late=time.monotonic() > until)
            time.sleep(LOOK_EVERY_S)
        self._processes()
        if not any(self._trains(process) for process in self._seen.values()):
            raise RuntimeError(f"{self._output}: no process whose command line has {self._worker!r}")

    def freeze(self) -> None:
        """Stop all its processes where they are."""
        self._check()
        self._signal(signal.SIGSTOP)
        if self._thawed is None:
            return
        for pid, spent_s in self._spent_s().items():
            took_s = spent_s - self._thawed.get(pid, 0.0)
            if self._trains(self._seen[pid]):
                self.trained_s += took_s
            else:
                self.hosted_s += took_s

    def thaw(self) -> None:
        """Let all its processes go on."""
        self._check()
        self._thawed = self._spent_s()
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Stop at a checkpoint and wait for the end; exit codes do not tell, since torchrun's is 1 whatever its workers' are."""
        StopMark(str(self._output)).set()
        self._process.wait(END_TIMEOUT_S)
        if STOPPED not in self._said.read_text():
            self._check()

    def _check(self, *, late: bool = False) -> None:
        if late or self._process.poll() is not None:
            what = "takes too long" if late else f"ended with exit code {self._process.returncode}"
            raise RuntimeError(f"{self._output} {what}:\n{self._said.read_text()[-2000:]}")

    def _trains(self, process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return self._worker in " ".join(process.cmdline())
        return False

    def _spent_s(self) -> dict[int, float]:
        """Return the CPU seconds of every process that lives."""
        found = {}
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        return found

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _processes(self) -> list[psutil.Process]:
        """Return all its processes, also those whose parent is gone; psutil knows a process again by the time of its start."""
        if self._process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                first = psutil.Process(self._process.pid)
                self._seen |= {process.pid: process for process in (first, *first.children(recursive=True))}
        self._seen = {pid: process for pid, process in self._seen.items() if process.is_running()}
        return list(self._seen.values())


def take_turns(one: Training, other: Training, *, turns: int, seconds: float, warm: int) -> None:
    """Bring both to step `warm`, then let each train alone for that many seconds, that many times; then end both.

    Each is frozen before its first turn and after its last for as long as a turn, so that its log shows where turns begin and end.
    """
    for training in (one, other):
        training.wait_for_step(warm)
        training.freeze()
    time.sleep(seconds)
    for _ in range(turns):
        for training in (one, other):
            training.thaw()
            time.sleep(seconds)
            training.freeze()
    time.sleep(seconds)
    for training in (one, other):
        training.thaw()
        training.end()


def turns_of(times_s: Sequence[float], *, turns: int, frozen_s: float) -> list[list[float]]:
    """Return the durations of the steps of every turn from the times at which steps ended; a step that was frozen in belongs to none.

    The steps before the first turn and after the last are left out. Raises ValueError where the times do not show that many turns.
    """
    found: list[list[float]] = [[]]
    for before, after in pairwise(times_s):
        if after - before >= frozen_s:
            found.append([])
        else:
            found[-1].append(after - before)
    if len(found) != turns + 2:
        raise ValueError(f"expected {turns} turns between pauses of {frozen_s:g} s or more, found {len(found) - 2}")
    return found[1:-1]
