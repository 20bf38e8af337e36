"""Let two trainings take turns on the same machine: while one trains, every process of the other is frozen.

A machine that is shared gets faster and slower by a third within minutes, so two trainings that follow each other compare moments, not
hosts. Here both are alive, warm, and run for a few seconds at a time.
"""

from __future__ import annotations

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
START_TIMEOUT_S = 300.0
END_TIMEOUT_S = 120.0
LOOK_EVERY_S = 0.2


class Training:
    """A training in processes of its own: started, frozen, thawed, and stopped at a checkpoint, which writes its log.

    `worker` is what the command lines of those processes have in common that train. `trained_s` and `hosted_s` are the CPU seconds that
    these and all others (the host's) took between thawing and freezing.
    """

    def __init__(self, command: Sequence[str], *, output: Path, cwd: Path, worker: str) -> None:
        self._output, self._said, self._worker = output, output.with_suffix(".txt"), worker
        self.trained_s = self.hosted_s = 0.0
        self._thawed: tuple[float, float] | None = None
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(command, cwd=cwd, stdout=said, stderr=subprocess.STDOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def wait_for_step(self, step: int) -> None:
        """Wait until it says that it has come that far. Raises RuntimeError when it ends or takes too long."""
        until = time.monotonic() + START_TIMEOUT_S
        while max((int(found) for found in STEP.findall(self._said.read_text())), default=0) < step:
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self._output} did not come to step {step}:\n{self._said.read_text()[-2000:]}")
            time.sleep(LOOK_EVERY_S)

    def freeze(self) -> None:
        """Stop all its processes where they are."""
        self._signal(signal.SIGSTOP)
        if self._thawed is not None:
            trained_s, hosted_s = self._spent_s()
            self.trained_s += trained_s - self._thawed[0]
            self.hosted_s += hosted_s - self._thawed[1]

    def thaw(self) -> None:
        """Let all its processes go on."""
        self._thawed = self._spent_s()
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Stop at a checkpoint and wait for the end."""
        StopMark(str(self._output)).set()
        self._process.wait(END_TIMEOUT_S)

    def _spent_s(self) -> tuple[float, float]:
        """Return the CPU seconds of the processes that train, and of all others."""
        found = [0.0, 0.0]
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[self._worker not in " ".join(process.cmdline())] += times.user + times.system
        return found[0], found[1]

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _processes(self) -> Sequence[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        return []


def take_turns(one: Training, other: Training, *, turns: int, seconds: float, warm: int) -> None:
    """Bring both to step `warm`, then let each train alone for that many seconds, that many times; then end both."""
    one.wait_for_step(warm)
    one.freeze()
    other.wait_for_step(warm)
    other.freeze()
    for _ in range(turns):
        for training in (one, other):
            training.thaw()
            time.sleep(seconds)
            training.freeze()
    for training in (one, other):
        training.thaw()
        training.end()


def turns_of(times_s: Sequence[float], *, frozen_s: float) -> list[list[float]]:
    """Return the durations of the steps of every turn from the times at which steps ended; a step that was frozen in belongs to none."""
    found: list[list[float]] = [[]]
    for before, after in pairwise(times_s):
        if after - before >= frozen_s:
            found.append([])
        else:
            found[-1].append(after - before)
    return found
