"""The order of a training: every row once per epoch, a function of the step alone, the same whatever the number of workers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.shards import sample_rows

SIZES = st.integers(1, 40)


def walk(steps: int, **how: object) -> list[int]:
    return [row for step in range(steps) for row in sample_rows(step, **how).tolist()]  # type: ignore[arg-type]


@given(n=SIZES, batch=SIZES, seed=st.integers(-5, 5))
def test_every_epoch_holds_every_row_once(n: int, batch: int, seed: int) -> None:
    order = walk(3 * n // batch + 1, batch=batch, n=n, seed=seed)
    for epoch in range(len(order) // n):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(n=SIZES, batch=SIZES, step=st.integers(0, 10**9), seed=st.integers(0, 2**62))
def test_a_step_does_not_depend_on_where_the_walk_began(n: int, batch: int, step: int, seed: int) -> None:
    rows = sample_rows(step, batch=batch, n=n, seed=seed)
    assert rows.dtype == torch.int64 and rows.shape == (batch,)
    # A batch is made of halves: the same order in steps of half the size.
    halves = torch.cat([sample_rows(half, batch=batch, n=n, seed=seed) for half in (2 * step, 2 * step + 1)])
    assert torch.equal(halves, sample_rows(step, batch=2 * batch, n=n, seed=seed))
    assert torch.equal(rows, sample_rows(step, batch=batch, n=n, seed=seed))


def test_epochs_and_seeds_differ() -> None:
    epochs = [tuple(sample_rows(step, batch=100, n=100, seed=0).tolist()) for step in range(5)]
    epochs += [tuple(sample_rows(0, batch=100, n=100, seed=seed).tolist()) for seed in (1, 2, -1)]
    assert len(set(epochs)) == len(epochs)


@pytest.mark.parametrize("window", [None, 2])
def test_the_order_never_changes(window: int | None) -> None:
    # A checkpoint from last year goes on in the same order: these numbers must not move.
    rows = sample_rows(1, batch=6, n=8, seed=7, window=window, shard_rows=(2, 2, 2, 2)).tolist()
    assert rows == {None: [1, 2, 7, 5, 0, 3], 2: [7, 2, 2, 7, 3, 6]}[window]


@given(st.data())
def test_a_window_keeps_rows_within_consecutive_shards_and_still_visits_each_once(data: st.DataObject) -> None:
    shard_rows = tuple(data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(sum)))
    window, seed = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 9))
    n = sum(shard_rows)
    order = sample_rows(data.draw(st.integers(0, 3)), batch=n, n=n, seed=seed, window=window, shard_rows=shard_rows).tolist()
    assert sorted(order) == list(range(n))
    shard_of = [shard for shard, rows in enumerate(shard_rows) for _ in range(rows)]
    seen: list[int] = [shard_of[row] for row in order]
    # Whatever lies between the first and the last row of a shard belongs to one window.
    for shard in set(seen):
        first, last = seen.index(shard), len(seen) - 1 - seen[::-1].index(shard)
        assert len(set(seen[first : last + 1])) <= window


def test_windows_are_drawn_anew_each_epoch() -> None:
    epochs = {tuple(sample_rows(step, batch=30, n=30, seed=0, window=1, shard_rows=(10, 10, 10)).tolist()) for step in range(4)}
    assert len(epochs) == 4


def test_what_contradicts_itself_is_refused() -> None:
    for how in ({"n": 0}, {"batch": 0}, {"step": -1}):
        with pytest.raises(ValueError, match="expected a step of 0 or more"):
            sample_rows(**({"step": 0, "batch": 1, "n": 1, "seed": 0} | how))
    with pytest.raises(ValueError, match="add up to 5 rows; found 2 shards with 4 rows"):
        sample_rows(0, batch=1, n=5, seed=0, window=1, shard_rows=(2, 2))
    with pytest.raises(ValueError, match="found none"):
        sample_rows(0, batch=1, n=5, seed=0, window=1)


def test_the_caller_may_change_what_it_gets() -> None:
    rows = sample_rows(0, batch=4, n=4, seed=0)
    expected = rows.clone()
    rows += 1
    assert torch.equal(sample_rows(0, batch=4, n=4, seed=0), expected)
