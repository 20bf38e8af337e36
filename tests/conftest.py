"""Settings of all tests: one thread per process, since several processes share few cores and OpenMP's barriers then wait for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.tracking_server import database, server, store  # noqa: F401

torch.set_num_threads(1)

ENGINE = {"ray", "chaos"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give pytest-xdist its groups: all tests that start a Ray, which are most of the time and come first, then one group per file.

    Two local Rays at a time would wait for each other's cores; a file's tests share its fixtures.
    """
    items.sort(key=lambda item: not _starts_ray(item))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if _starts_ray(item) else Path(item.path).stem))


def _starts_ray(item: pytest.Item) -> bool:
    return any(mark.name in ENGINE for mark in item.iter_markers())
