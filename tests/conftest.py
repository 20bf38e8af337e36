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

from tests.commands import command  # noqa: F401
from tests.tracking_server import database, server, store  # noqa: F401

torch.set_num_threads(1)

RAY_MARK = re.compile(r"pytest\.mark\.(ray|chaos)")


class RayAtOnePlace(LoadScopeScheduling):  # type: ignore[misc]
    """Give one pytest-xdist worker all files that start a Ray: two local Rays would wait for each other's cores. The rest goes by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "ray" if _starts_ray(Path(self.config.rootpath) / file) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Return the order in which `--numprocesses` hands out tests."""
    return RayAtOnePlace(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what starts a Ray: it is most of the time."""
    items.sort(key=lambda item: not _starts_ray(item.path))


@cache
def _starts_ray(file: Path) -> bool:
    return RAY_MARK.search(file.read_text()) is not None
