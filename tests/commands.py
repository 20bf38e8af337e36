"""Commands as a user starts them, in this process: a test of what a command says need not load the libraries again."""

from __future__ import annotations

import json
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a command left when it ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, object]:
        """Return the JSON line that ends standard output."""
        found = json.loads(self.out.strip().splitlines()[-1])
        assert isinstance(found, dict)
        return found


Command = Callable[[str, Sequence[str]], Ended]


@pytest.fixture
def restored() -> Iterator[None]:
    """Give the test's process its signal handlers and threads back, which a command may change."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], restored: None) -> Command:
    """Return what runs a script of the repository with its arguments, in the folder that it expects."""

    def run(script: str, flags: Sequence[str]) -> Ended:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [script, *flags])
        capsys.readouterr()
        code: object = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as left:
            code = left.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int), code
        return Ended(code=code, out=said.out, err=said.err)

    return run
