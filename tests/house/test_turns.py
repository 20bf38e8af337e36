"""Trainings that take turns in a benchmark: a frozen one stands still, and what its processes take is told apart."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks.turns import Training, turns_of

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
    turns = turns_of([0.0, 0.5, 1.0, 9.4, 10.0, 18.9, 19.3, 19.9], frozen_s=4.0)
    assert [pytest.approx(turn) for turn in turns] == [[0.5, 0.5], [0.6], [0.4, 0.6]]
    assert turns_of([1.0], frozen_s=4.0) == [[]]


def test_a_frozen_training_stands_still_and_its_host_is_counted_by_itself(tmp_path: Path) -> None:
    said = tmp_path / "out.txt"
    with Training([sys.executable, "-c", STEPS], output=tmp_path / "out", cwd=tmp_path, worker="train: small") as training:
        training.wait_for_step(3)
        training.freeze()
        time.sleep(0.2)
        frozen = said.read_text()
        time.sleep(0.5)
        assert said.read_text() == frozen
        training.thaw()
        training.wait_for_step(frozen.count("\n") + 30)
        training.freeze()
        assert training.hosted_s > 0.1 and training.hosted_s > 2 * training.trained_s


def test_one_that_ends_too_early_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no room')"]
    with Training(command, output=tmp_path / "out", cwd=tmp_path, worker="small") as training, pytest.raises(RuntimeError, match="no room"):
        training.wait_for_step(1)
