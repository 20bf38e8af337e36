"""The search for the smallest strength: it reaches its target, comes near the smallest that does, and takes few tries."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from augmentation.edits import Strength
from augmentation.strength_search import FIRST, RISES, Tried, find_smallest

Judge = Callable[[float], Tried]
factors = st.floats(0.05, 10.0)


@st.composite
def strengths(draw: st.DrawFn) -> Strength:
    low, high = sorted((draw(factors), draw(factors)))
    return Strength(low=low, high=high + 0.05, auto=True, steps=draw(st.integers(1, 8)))


def monotone(threshold: float) -> Judge:
    return lambda factor: Tried.REACHED if factor >= threshold else Tried.SHORT


def searched(strength: Strength, judge: Judge) -> tuple[float | None, list[float]]:
    """Return what was found, and all that was tried for it."""
    tries: list[float] = []

    def try_all(pairs: Sequence[tuple[int, float]]) -> list[Tried]:
        tries.extend(factor for _, factor in pairs)
        return [judge(factor) for _, factor in pairs]

    (found,) = find_smallest([strength], try_all)
    return found, tries


def most(strength: Strength) -> int:
    """Return how many tries a search may take: the first, the rise, the halvings."""
    return 1 + RISES + strength.steps


@given(strength=strengths(), threshold=factors)
def test_it_comes_near_the_smallest_strength_that_reaches(strength: Strength, threshold: float) -> None:
    found, tries = searched(strength, monotone(threshold))
    assert len(tries) <= most(strength) and all(strength.low <= factor <= strength.high for factor in tries)
    if threshold > strength.high:
        assert found is None
        return
    first = min(max(FIRST, strength.low), strength.high)
    widest = max(first - strength.low, (strength.high - first) / RISES)
    assert found is not None
    assert threshold <= found <= max(threshold, strength.low) + widest / 2**strength.steps + 1e-9


@given(strength=strengths(), threshold=factors, limit=factors)
def test_it_does_not_rise_beyond_what_would_be_lost(strength: Strength, threshold: float, limit: float) -> None:
    def judge(factor: float) -> Tried:
        return Tried.REACHED if factor >= threshold else Tried.LOST if factor >= limit else Tried.SHORT

    found, tries = searched(strength, judge)
    lost = [place for place, factor in enumerate(tries) if judge(factor) is Tried.LOST]
    if found is None:
        assert lost in ([], [len(tries) - 1])
    else:
        assert judge(found) is Tried.REACHED


@given(strength=strengths(), seed=st.integers(0, 10**6))
def test_whatever_the_edit_does_what_is_found_has_reached(strength: Strength, seed: int) -> None:
    def judge(factor: float) -> Tried:
        return random.Random(f"{seed} {factor!r}").choice(list(Tried))

    found, tries = searched(strength, judge)
    assert len(tries) <= most(strength)
    if found is not None:
        assert found == min(factor for factor in tries if judge(factor) is Tried.REACHED)
    elif all(judge(factor) is Tried.SHORT for factor in tries):
        assert tries[-1] == strength.high  # it gave up at the end only


@given(st.lists(st.tuples(strengths(), factors), max_size=6))
def test_many_at_once_come_to_what_each_comes_to_alone(wanted: list[tuple[Strength, float]]) -> None:
    rounds: list[list[int]] = []

    def try_all(pairs: Sequence[tuple[int, float]]) -> list[Tried]:
        rounds.append([place for place, _ in pairs])
        return [monotone(wanted[place][1])(factor) for place, factor in pairs]

    alone = [searched(strength, monotone(threshold)) for strength, threshold in wanted]
    assert find_smallest([strength for strength, _ in wanted], try_all) == [found for found, _ in alone]
    assert len(rounds) == max((len(tries) for _, tries in alone), default=0)  # each round asks for all that still search, once
    assert all(places == sorted(set(places)) for places in rounds)
    assert [sum(place in places for places in rounds) for place in range(len(wanted))] == [len(tries) for _, tries in alone]


def test_it_begins_with_the_instruction_s_own_strength() -> None:
    assert searched(Strength(low=0.2, high=2.0, auto=True), monotone(5))[1][0] == 1.0
    assert searched(Strength(low=0.2, high=0.8, auto=True), monotone(5)) == (None, [0.8])
    assert searched(Strength(low=1.5, high=3.0, auto=True), monotone(0.1)) == (1.5, [1.5])
