"""Settings of all tests: one thread per process, since several processes share few cores and OpenMP's barriers then wait for ever."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.commands import command, restored  # noqa: F401
from tests.tracking_server import database, server, store  # noqa: F401

torch.set_num_threads(1)

RAY_MARK = re.compile(r'pytest\.mark\.(?:ray|chaos)\b(?:\("(\w+)"\))?')


class RayAtOnePlace(LoadScopeScheduling):  # type: ignore[misc]
    """Keep files that share a Ray on one pytest-xdist worker: those with `pytest.mark.ray`, and those of each `pytest.mark.ray("name")`.

    The rest goes by file.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return _ray_of(Path(self.config.rootpath) / file) or file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Return the order in which `--numprocesses` hands out tests."""
    return RayAtOnePlace(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what starts a Ray: it is most of the time."""
    items.sort(key=lambda item: _ray_of(item.path) is None)


@cache
def _ray_of(file: Path) -> str | None:
    """Name the Ray that a file's tests share; None where they start none."""
    found = RAY_MARK.search(file.read_text())
    return f"ray {found[1] or ''}" if found else None
