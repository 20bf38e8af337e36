"""Trainings that take turns in a benchmark: a frozen one stands still, and what its processes take is told apart."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.turns import Training, turns_of
from jobs.local_ray import is_alive

STEPS = """
import subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # what hosts
try:
    for step in range(1, 100000):
        print(f"train: small {step}/100000, loss 1.0", flush=True)
        time.sleep(0.01)
finally:
    helper.kill()
"""


def test_a_step_that_was_frozen_in_belongs_to_no_turn() -> None:
    times = [0.0, 0.5, 9.4, 10.0, 18.9, 19.3, 19.9, 27.0, 27.5]
    turns = turns_of(times, turns=2, frozen_s=4.0)
    assert [pytest.approx(turn) for turn in turns] == [[0.6], [0.4, 0.6]]
    with pytest.raises(ValueError, match="expected 3 turns between pauses of 4 s or more, found 2"):
        turns_of(times, turns=3, frozen_s=4.0)


def test_a_frozen_training_stands_still_and_its_host_is_counted_by_itself(tmp_path: Path) -> None:
    said = tmp_path / "out.txt"
    with Training([sys.executable, "-c", STEPS], output=tmp_path / "out", cwd=tmp_path, worker="train: small") as training:
        training.wait_for_step(3)
        training.freeze()
        time.sleep(0.2)
        frozen = said.read_text()
        time.sleep(0.5)
        assert said.read_text() == frozen
        for _ in range(600):
            training.thaw()
            time.sleep(0.1)
            training.freeze()
            if training.hosted_s > 1:
                break
        assert len(said.read_text()) > len(frozen) and training.hosted_s > 2 * training.trained_s
        children = psutil.Process(training._process.pid).children()
    assert len(children) == 1
    deadline = time.monotonic() + 10
    while is_alive(children[0]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_that_ends_too_early_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no room')"]
    with Training(command, output=tmp_path / "out", cwd=tmp_path, worker="small") as training:
        with pytest.raises(RuntimeError, match="ended with exit code 1:\nno room"):
            training.wait_for_step(1)
        with pytest.raises(RuntimeError, match="ended with exit code 1"):
            training.thaw()
