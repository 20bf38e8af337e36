"""One small world and one Ray for all tests of whole jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from jobs.local_ray import LocalRay, local_ray
from tests.jobs.world import Ended, World, arguments, clean_environment, make_world, run

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return four shards of four samples and a pack."""
    return make_world(tmp_path_factory.mktemp("world"), shards=4, per_shard=4)


@pytest.fixture(scope="session")
def ray_head() -> Iterator[LocalRay]:
    """Return a Ray with a job server, shared by the tests of this session."""
    with local_ray(num_cpus=2) as ray:
        yield ray


@pytest.fixture(scope="session")
def joined(ray_head: LocalRay) -> Mapping[str, str]:
    """Return the environment of a job that joins the shared Ray."""
    return {**clean_environment(), **ray_head.env, "RAY_ADDRESS": ray_head.address}


@pytest.fixture(scope="session")
def finished(world: World, joined: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Return the output of an undisturbed run, and how the run ended."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return out, run(arguments(world, out), env=joined)
