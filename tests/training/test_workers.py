"""Two workers train what one trains: the same normalisation and the same first losses of every kind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.small_kinds import COMPARED, log_of, train
from tests.training.two_workers import GROWN, SHAPES, norm, normalised
from training.checkpoint import unpack_tree

ROOT = Path(__file__).resolve().parents[2]
WORKERS, STEPS = 2, 5


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_two(output: Path, *flags: str) -> None:
    """Run two workers into a folder."""
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(WORKERS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "tests.training.two_workers", str(output), *flags]
    workers = [
        subprocess.Popen(command, cwd=ROOT, env={**shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True) for rank in range(WORKERS)
    ]
    try:
        errors = [worker.communicate(timeout=280)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what two workers left."""
    output = tmp_path_factory.mktemp("two")
    run_two(output)
    return output


@pytest.mark.parametrize("name", SHAPES)
def test_batch_normalisation_is_that_of_the_joined_batch(two: Path, name: str) -> None:
    expected = normalised(norm(), name, slice(None))
    parts = [unpack_tree((two / f"{name}-{rank}").read_bytes()) for rank in range(WORKERS)]
    assert all(part.keys() == expected.keys() for part in parts)
    for key, value in expected.items():
        found: list[Tensor] = [part[key] for part in parts]  # type: ignore[misc]
        if key.startswith("own_"):
            assert all(torch.allclose(own, value, rtol=1e-10) for own in found), key
        elif key.startswith("grad_"):
            assert torch.allclose(found[0] + found[1], value, rtol=1e-9), key
        else:
            assert torch.allclose(torch.cat(found), value, rtol=1e-9, atol=1e-10), key


def test_a_part_normalised_by_itself_would_be_another() -> None:
    halves = [normalised(norm(), "pictures", half)["output0"] for half in (slice(0, 2), slice(2, 4))]
    assert not torch.allclose(torch.cat(halves), normalised(norm(), "pictures", slice(None))["output0"], atol=0.1)


AMPLIFIED = {"nada": 1e-3}
"""StyleGAN-NADA begins with two equal generators: the direction between their first pictures is rounding, which is all that differs."""


@pytest.mark.parametrize("network", COMPARED)
def test_the_first_losses_are_those_of_one_worker(two: Path, network: str, tmp_path: Path) -> None:
    result = train(network, tmp_path, should_stop=lambda: True)
    assert result.step == STEPS and not result.finished
    alone, together = log_of(tmp_path), log_of(two / network)
    assert [line["step"] for line in together] == [line["step"] for line in alone] == list(range(1, STEPS + 1))
    for a, b in zip(alone, together, strict=True):
        assert b == pytest.approx(a, rel=AMPLIFIED.get(network, 1e-4), abs=1e-6)


@pytest.mark.parametrize("network", ["attributes", "e4e", "mapping"])
def test_what_two_workers_began_one_goes_on_with(two: Path, network: str, tmp_path: Path) -> None:
    """A group that lost a machine for good: its state holds nothing that belongs to a worker."""
    shrunk, alone = tmp_path / "shrunk", tmp_path / "alone"
    shutil.copytree(two / network, shrunk)
    assert train(network, shrunk).finished and train(network, alone).finished
    for a, b in zip(log_of(alone), log_of(shrunk), strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5), a["step"]


def test_what_one_worker_began_two_go_on_with(tmp_path: Path) -> None:
    grown, alone = tmp_path / GROWN, tmp_path / "alone"
    assert train(GROWN, grown, should_stop=lambda: True).step == STEPS
    run_two(tmp_path, "--go-on")
    train(GROWN, alone)
    assert [line["step"] for line in log_of(grown)] == list(range(1, 11))
    for a, b in zip(log_of(alone), log_of(grown), strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5), a["step"]
