"""Arguments of a training that cannot be: refused with what would be right, before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, Command

JOB = "jobs/train.py"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--network: none given; expected one of adversarial"),
        (["--network", "hypereditr", "--output", "o"], "did you mean 'hypereditor'?"),
        (["--network", "e4e", "--output", "o", "--settings.only", "[smile]"], "settings.only"),
        (["--network", "e4e", "--output", "o", "--settings.stesp", "3"], "did you mean --settings.steps?"),
        (["--network", "identity", "--output", "o", "--data", "nowhere"], "from shards learn"),
        (["--network", "e4e", "--output", "o", "--data", "nowhere"], "nowhere"),
        (["--network", "e4e", "--output", "o", "--pack", "nowhere"], "pack nowhere"),
        (["--network", "e4e", "--output", "o", "--pack", "none"], "leans on the networks generator, identity"),
        (["--network", "e4e", "--output", "o", "--workers.count", "5"], "cannot be split over 5 worker(s)"),
        (["--network", "hypereditor", "--output", "o", "--settings.only", "[smil]"], "no instruction 'smil'"),
        (["--network", "e4e", "--output", "o", "--loop.accumulate", "0"], "expected 1 or more"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml"),
    ],
)
def test_wrong_arguments_end_with_two_before_anything_starts(flags: list[str], said: str, tmp_path: Path, command: Command) -> None:
    flags = [str(tmp_path / "o") if word == "o" else word for word in flags]
    ended = command(JOB, flags)
    assert ended.code == 2 and said in ended.err and "Traceback" not in ended.err, ended.err
    assert not (tmp_path / "o").exists()


def test_a_dry_run_says_what_would_be_done(tmp_path: Path, command: Command) -> None:
    ended = command(JOB, ["--network", "hypereditor", "--output", str(tmp_path / "o"), "--settings.phases", "[[7, 1.0]]", "--dry_run"])
    assert ended.code == 0 and ended.result["steps"] == 7 and ended.result["done"] == 0 and not (tmp_path / "o").exists()


def test_the_command_line_itself_ends_with_two() -> None:
    done = subprocess.run([sys.executable, JOB, "--network", "e4e", "--outptu", "o"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--output" in done.stderr and "Traceback" not in done.stderr
