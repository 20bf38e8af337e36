"""Drawn pictures: a shard's name says all about it, and a seed makes the same picture wherever and beside whomever it is drawn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from augmentation.drawn import draw
from models.state import GeneratorState
from models.stylegan2 import Generator
from pipeline.drawn_shards import DrawnShard, shards
from pipeline.shard_list import GENERATED
from tests.models.small_pack import CONFIGS

TOLERANCE = 1e-5
numbers = st.integers(0, 10**12)
truncations = st.floats(0, 1, exclude_min=True)


@pytest.fixture(scope="module")
def generator() -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Generator.from_config(CONFIGS["generator"]).eval()


@torch.no_grad()
def pictures(generator: Generator, seeds: list[int], truncation: float = 0.7) -> Tensor:
    return draw(generator, seeds, truncation=truncation, device="cpu")


@given(first=numbers, count=st.integers(1, 10**6), truncation=truncations)
def test_the_name_of_a_shard_says_all_about_it(first: int, count: int, truncation: float) -> None:
    shard = DrawnShard(first=first, count=count, truncation=truncation)
    assert DrawnShard.of(shard.url) == shard and shard.url.startswith(GENERATED)


@pytest.mark.parametrize("url", ["generated:", "generated:first=1,count=2", "generated:first=-1,count=2,truncation=1", "raw.tar"])
def test_another_name_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=f"{url}: expected generated:first=N,count=N,truncation=X"):
        DrawnShard.of(url)


@given(count=st.integers(1, 200), first=numbers, size=st.integers(1, 60))
def test_shards_hold_every_seed_once_and_in_order(count: int, first: int, size: int) -> None:
    listed = shards(count=count, first=first, truncation=0.7, shard_size=size)
    keys = [DrawnShard.of(shard.url).keys() for shard in listed]
    assert [seed for part in keys for _, seed in part] == list(range(first, first + count))
    assert [len(part) for part in keys[:-1]] == [size] * (len(listed) - 1) and len(keys[-1]) <= size
    names = [shard.name for shard in listed]
    assert names == sorted(set(names)) and all(name.startswith("drawn-") for name in names)


def test_keys_sort_like_their_seeds() -> None:
    keys = DrawnShard(first=98, count=4, truncation=1.0).keys()
    assert keys == sorted(keys) and keys[0] == ("drawn-000000098", 98)


@pytest.mark.parametrize("batches", [[[5], [7, 0], [3]], [[3, 5, 0, 7]], [[0, 3, 5], [7]]])
def test_a_seed_makes_the_same_picture_in_any_batch(generator: Generator, batches: list[list[int]]) -> None:
    alone = {seed: pictures(generator, [seed])[0] for seed in (0, 3, 5, 7)}
    for batch in batches:
        for seed, picture in zip(batch, pictures(generator, batch), strict=True):
            assert torch.allclose(picture, alone[seed], atol=TOLERANCE, rtol=0)


def test_other_seeds_make_other_pictures(generator: Generator) -> None:
    made = pictures(generator, [1, 2, 10_001])
    assert all(not torch.allclose(made[a], made[b], atol=1e-3) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_no_truncation_is_what_the_generator_learnt(generator: Generator) -> None:
    z_BD = torch.randn(1, generator.style_dim, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        whole = generator(GeneratorState(latents_BLD=generator.repeat(generator.mapping(z_BD))))
    assert torch.allclose(pictures(generator, [6], 1.0), whole, atol=TOLERANCE, rtol=0)


def test_truncation_brings_pictures_together_until_all_are_equal(generator: Generator) -> None:
    def spread(truncation: float) -> float:
        return float(pictures(generator, list(range(8)), truncation).var(dim=0).mean())

    spreads = [spread(truncation) for truncation in (0.0, 0.3, 0.6, 1.0)]
    assert spreads == sorted(set(spreads)) and spreads[0] < TOLERANCE**2
    made = pictures(generator, [1, 2, 3], 0.0)
    assert torch.allclose(made, made[:1].expand_as(made), atol=TOLERANCE, rtol=0)
