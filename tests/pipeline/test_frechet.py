"""Frechet moments: they merge, they survive the disk, and the distance is the one of the formula."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline import report_tables
from pipeline.frechet import FEWEST, Moments, ShardMoments, distance
from pipeline.report_data import InstructionNumbers, Run
from pipeline.report_facts import NOTHING


def draw(count: int, *, features: int = 5, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator)
    return torch.randn(count, features, generator=generator) @ mixing + shift


def moments_of(features_BE: Tensor) -> Moments:
    moments = Moments.empty(features_BE.shape[1])
    moments.update(features_BE)
    return moments


def formula(a: Tensor, b: Tensor) -> float:
    """The distance straight from the samples, through scipy's matrix square root."""
    x, y = a.double().numpy(), b.double().numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root))


def test_the_distance_is_the_one_of_the_formula() -> None:
    a, b = draw(200), draw(150, seed=1, shift=0.7)
    found = distance(moments_of(a), moments_of(b))
    assert found == pytest.approx(formula(a, b), rel=1e-8)


def test_two_gaussians_of_known_distance() -> None:
    a = torch.tensor([[-1.0], [1.0]]) * torch.tensor(0.5).sqrt()  # mean 0, unbiased variance 1
    assert distance(moments_of(a), moments_of(3 * a + 2)) == pytest.approx(4 + (3 - 1) ** 2, rel=1e-6)


def test_equal_sets_have_no_distance() -> None:
    a = draw(40)
    assert distance(moments_of(a), moments_of(a)) == pytest.approx(0.0, abs=1e-9)


def test_one_sample_has_no_distance() -> None:
    assert distance(moments_of(draw(1)), moments_of(draw(30))) is None


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=6), shuffle=st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_same_distance(cuts: list[int], shuffle: object) -> None:
    features, other = draw(60), moments_of(draw(60, seed=2, shift=0.3))
    edges = [0, *sorted(cuts), 60]
    parts = [moments_of(features[start:stop]) for start, stop in zip(edges, edges[1:], strict=False)]
    shuffle.shuffle(parts)  # type: ignore[attr-defined]
    merged = Moments.empty(5)
    for part in parts:
        merged = merged.merge(part)
    assert merged.count == 60
    assert distance(merged, other) == pytest.approx(distance(moments_of(features), other), rel=1e-9)


def test_a_shard_of_moments_survives_the_disk_byte_for_byte() -> None:
    shard = ShardMoments.empty(4, ["smile", "edit.source"])
    shard.source.update(draw(9, features=4))
    shard.edits["smile"].update(draw(9, features=4, seed=3))
    data = shard.to_npz()
    again = ShardMoments.from_npz(data, where="a.npz")
    assert again.to_npz() == data
    assert again.source.count == 9 and again.edits["edit.source"].count == 0
    np.testing.assert_array_equal(again.edits["smile"].outer_EE, shard.edits["smile"].outer_EE)


def test_shards_merge_per_instruction() -> None:
    a, b = ShardMoments.empty(4, ["smile"]), ShardMoments.empty(4, ["smile", "bald"])
    a.edits["smile"].update(draw(3, features=4))
    b.edits["smile"].update(draw(2, features=4, seed=1))
    b.edits["bald"].update(draw(5, features=4, seed=2))
    merged = a.merge(b)
    assert {name: moments.count for name, moments in merged.edits.items()} == {"smile": 5, "bald": 5}


WHOLE = ShardMoments.empty(4, ["smile"]).to_npz()


@pytest.mark.parametrize("data", [b"", WHOLE[:-40], WHOLE.replace(b"NUMPY", b"YPMUN"), b"not a zip at all"])
def test_a_damaged_file_is_named(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"moments/a\.npz: not a file of Frechet moments .* run the shard again"):
        ShardMoments.from_npz(data, where="moments/a.npz")


def test_moments_of_different_networks_do_not_mix() -> None:
    with pytest.raises(ValueError, match="moments of 4 and 5 features"):
        Moments.empty(4).merge(Moments.empty(5))
    with pytest.raises(ValueError, match="moments hold 4 features"):
        Moments.empty(4).update(torch.zeros(2, 5))


def test_the_report_gives_no_distance_of_a_few_pictures() -> None:
    for count in (FEWEST - 1, FEWEST):
        source, edited = moments_of(draw(FEWEST)), moments_of(draw(count, shift=3.0))
        run = Run(facts={}, moments=ShardMoments(source=source, edits={"smile": edited}))
        [(name, shown, edits)] = report_tables.frechet(run, [InstructionNumbers(name="smile")])
        assert (name, edits) == ("smile", str(count))
        assert shown == NOTHING if count < FEWEST else float(shown) > 1
