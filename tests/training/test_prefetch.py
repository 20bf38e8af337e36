"""Loading ahead: order, errors at their step, a bound on what is ahead, a clean end, and what the consumer waited."""

from __future__ import annotations

import threading
import time
from itertools import islice

import pytest

from training.prefetch import Prefetcher


def test_steps_come_in_order_although_later_ones_load_faster() -> None:
    def load(step: int) -> int:
        time.sleep(0.02 if step % 3 == 0 else 0.0)
        return step

    with Prefetcher(load, 5, ahead=4, threads=4) as loaded:
        assert list(islice(loaded, 12)) == list(range(5, 17))


def test_it_ends_at_stop_and_loads_nothing_behind_it() -> None:
    asked: list[int] = []
    with Prefetcher(lambda step: asked.append(step) or step, 0, stop=3, ahead=8) as loaded:
        assert list(loaded) == [0, 1, 2]
    assert sorted(asked) == [0, 1, 2]
    with Prefetcher(lambda step: step, 3, stop=3) as loaded:
        assert list(loaded) == []


def test_an_error_is_raised_at_its_step_and_ends_it() -> None:
    def load(step: int) -> int:
        if step == 2:
            raise OSError("step 2 is gone")
        return step

    with Prefetcher(load, 0, ahead=4) as loaded:
        assert [next(loaded), next(loaded)] == [0, 1]
        with pytest.raises(OSError, match="step 2 is gone"):
            next(loaded)
        assert list(loaded) == []


def test_a_load_that_raises_stop_iteration_does_not_end_the_loop_silently() -> None:
    def load(step: int) -> int:
        raise StopIteration

    with Prefetcher(load, 0) as loaded, pytest.raises(RuntimeError, match="StopIteration"):
        list(loaded)


def test_no_more_than_ahead_is_loaded_before_it_is_asked_for() -> None:
    asked: list[int] = []
    with Prefetcher(lambda step: asked.append(step) or step, 0, ahead=3) as loaded:
        time.sleep(0.05)
        assert sorted(asked) == [0, 1, 2]
        next(loaded)
        time.sleep(0.05)
        assert sorted(asked) == [0, 1, 2, 3]


def test_closing_waits_for_calls_under_way_and_leaves_no_thread() -> None:
    ended: list[int] = []

    def load(step: int) -> int:
        time.sleep(0.05)
        ended.append(step)
        return step

    with Prefetcher(load, 0, ahead=64, threads=2) as loaded:
        next(loaded)
    begun = len(ended)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    time.sleep(0.12)
    assert len(ended) == begun < 64
    loaded.close()
    assert list(loaded) == []


def test_waiting_is_counted_only_while_the_consumer_waits() -> None:
    def slow(step: int) -> int:
        time.sleep(0.05)
        return step

    with Prefetcher(slow, 0, ahead=1, threads=1) as loaded:
        list(islice(loaded, 3))
        assert 0.1 < loaded.waited_s < 1.0
    with Prefetcher(lambda step: step, 0, ahead=4) as loaded:
        for _ in islice(loaded, 5):
            time.sleep(0.05)
        assert loaded.waited_s < 0.125  # half of the time


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        Prefetcher(lambda step: step, 0, ahead=0)
