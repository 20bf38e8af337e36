"""One small world and one Ray for all tests of whole jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from ray._private.authentication_test_utils import reset_auth_token_state

from jobs.local_ray import LocalRay, local_ray
from models.pack_format import CACHE_VARIABLE
from tests.commands import Ended
from tests.jobs.world import World, arguments, clean_environment, make_world, submit

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return four shards of four samples and a pack."""
    return make_world(tmp_path_factory.mktemp("world"), shards=4, per_shard=4)


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRay]:
    """Return a Ray with a job server, shared by the tests of this session; its processes keep packs in a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        with local_ray(num_cpus=2) as ray:
            yield ray


@pytest.fixture(scope="session")
def joined(ray_head: LocalRay) -> Mapping[str, str]:
    """Return the environment of a job that joins the shared Ray."""
    return {**clean_environment(), **ray_head.env, "RAY_ADDRESS": ray_head.address}


@pytest.fixture(scope="session")
def finished(world: World, ray_head: LocalRay, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Return the output of an undisturbed run that was submitted to the shared Ray, and how it ended."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return out, submit(arguments(world, out), ray=ray_head)


@pytest.fixture
def token(ray_head: LocalRay) -> Iterator[LocalRay]:
    """Let this process reach the shared Ray; Ray reads such settings once, unless it is told to forget them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            patch.setenv(name, ray_head.env[name])
        reset_auth_token_state()
        yield ray_head
    reset_auth_token_state()
