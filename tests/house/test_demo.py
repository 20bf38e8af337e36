"""The demo refuses what it cannot do before it starts anything, and never empties a folder that is not its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.demo import DemoError, empty_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--count", "0"], "--count 0: expected 1 or more"),
        (["--count", "many"], "invalid int value: 'many'"),
        (["--instructions", "missing.yaml"], "--instructions missing.yaml: no such file"),
        (["--pack", "missing"], "--pack missing: no pack.yaml there"),
        (["--fodler", "x"], "unrecognized arguments: --fodler"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], expected: str, tmp_path: Path) -> None:
    command = [sys.executable, "jobs/demo.py", "--folder", str(tmp_path / "demo"), *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and expected in run.stderr
    assert not (tmp_path / "demo").exists()


def test_the_folder_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "demo"
    empty_folder(folder)
    (folder / "raw").mkdir()
    (folder / "raw" / "000000.tar").write_bytes(b"old")
    empty_folder(folder)
    assert not (folder / "raw").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos.tar").write_bytes(b"precious")
    with pytest.raises(DemoError, match="holds files that the demo did not write"):
        empty_folder(tmp_path)
    assert (tmp_path / "photos.tar").read_bytes() == b"precious"
