"""Which edit a sample gets: by weight, by chance that depends on who and what alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmentation.choice import chance, weighted_order
from augmentation.edits import Edit
from models.instruction import Instruction
from tests.augmentation.small_recipe import GLASSES, HAT, SMILE, edit_of

ODD = Instruction(name="odd", source="a face", target="an odd face")
SAMPLES = 4000
SIGMAS = 4.0


def chance_of(key: str) -> Callable[[Edit], float]:
    return lambda edit: chance(0, "shard", key, edit.name, "order")


def order(edits: list[Edit], key: str, labels: Mapping[str, bool] | None = None) -> list[str]:
    return [edit.name for edit in weighted_order(edits, labels or {}, chance_of(key))]


def assert_shares(counts: Mapping[str, int], shares: Mapping[str, float]) -> None:
    """Check counts against shares, within what chance explains."""
    total = sum(counts.values())
    for name, share in shares.items():
        tolerance = SIGMAS * (total * share * (1 - share)) ** 0.5
        assert abs(counts[name] - total * share) <= tolerance, (name, counts[name], total * share)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (0.05, 0.01, 0.04), (2e-5, 1e-5, 1e-5), (30.0, 10.0, 10.0)])
def test_weights_are_honoured_over_many_samples(weights: tuple[float, float, float]) -> None:
    edits = [edit_of(one, weight=weight) for one, weight in zip((SMILE, GLASSES, HAT), weights, strict=True)]
    orders = [order(edits, f"sample {n}") for n in range(SAMPLES)]
    total = sum(weights)
    assert_shares(Counter(found[0] for found in orders), {edit.name: edit.weight / total for edit in edits})
    rest = total - edits[0].weight  # of those that began with the first, the others come by their weights too
    assert_shares(Counter(found[1] for found in orders if found[0] == "smile"), {edit.name: edit.weight / rest for edit in edits[1:]})


@given(
    key=st.text(max_size=20),
    weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    kept=st.sets(st.integers(0, 3)),
    turned=st.permutations(range(4)),
)
def test_the_order_of_two_edits_does_not_depend_on_the_others(key: str, weights: list[float], kept: set[int], turned: list[int]) -> None:
    edits = [edit_of(one, weight=weight) for one, weight in zip((SMILE, GLASSES, HAT, ODD), weights, strict=True)]
    whole = order(edits, key)
    assert sorted(whole) == sorted(edit.name for edit in edits)
    names = {edits[place].name for place in kept}
    assert order([edits[place] for place in turned if place in kept], key) == [name for name in whole if name in names]


def test_an_edit_whose_result_is_there_already_is_left_out() -> None:
    edits = [edit_of(SMILE), edit_of(GLASSES), edit_of(SMILE, GLASSES), edit_of(ODD)]
    assert set(order(edits, "a", {"smile": True})) == {"glasses", "smile-glasses", "odd"}
    assert set(order(edits, "a", {"smile": True, "glasses": True})) == {"odd"}
    assert set(order(edits, "a", {"smile": False})) == {edit.name for edit in edits}


def test_a_removal_is_left_out_where_there_is_nothing_to_remove() -> None:
    bare = Instruction(name="bare", source="a face with a hat", target="a face", expects={"hat": False})
    assert order([edit_of(bare)], "a", {"hat": False}) == [] and order([edit_of(bare)], "a", {"hat": True}) == ["bare"]


def test_chance_is_even() -> None:
    drawn = sorted(chance("seed", n) for n in range(SAMPLES))
    assert drawn[0] >= 0 and drawn[-1] < 1
    furthest = max(abs(value - (place + 0.5) / SAMPLES) for place, value in enumerate(drawn))
    assert furthest < 1.63 / SAMPLES**0.5  # Kolmogorov and Smirnov at 1 %


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=8), max_size=3))
def test_chance_depends_on_every_value_and_on_nothing_else(what: list[str]) -> None:
    assert chance(*what) == chance(*what) and chance(*what) != chance(*what, "more")
    assert chance("x", *what) != chance("y", *what)


def test_chance_never_changes() -> None:
    # What it came to decided on outputs that exist: these numbers must not move.
    assert chance(0, "part-0", "0001", "smile", "order") == 0.997635034014578
    assert chance("\N{SNOWMAN}") == 0.31793519150925953
