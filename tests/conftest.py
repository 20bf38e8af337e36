"""Settings of all tests: one thread per process, since several processes share few cores and OpenMP's barriers then wait for ever."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.tracking_server import database, server, store  # noqa: F401

torch.set_num_threads(1)
