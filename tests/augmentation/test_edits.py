"""Edits of a recipe: what they ask of the networks, at which strength, and how they are told in records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmentation.edits import LEVELS, Strength
from models.instruction import Instruction
from tests.augmentation.small_recipe import GLASSES, NO_GLASSES, SMILE, edit_of

chances = st.floats(0, 1, exclude_max=True)


@given(ends=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)).map(sorted), chance=chances, other=chances)
def test_a_strength_of_a_range_is_one_of_few_and_grows_with_chance(ends: list[float], chance: float, other: float) -> None:
    strength = Strength(low=ends[0], high=ends[1])
    low, high = (strength.drawn(one) for one in sorted((chance, other)))
    assert ends[0] <= low <= high <= ends[1] + 1e-12
    steps = [ends[0] + (ends[1] - ends[0]) * level / (LEVELS - 1) for level in range(LEVELS)]
    assert low in steps and high in steps


def test_every_strength_of_a_range_is_as_likely() -> None:
    drawn = [Strength(low=1, high=3).drawn(n / 900) for n in range(900)]
    assert drawn[0] == 1 and drawn[-1] == 3 and {drawn.count(value) for value in drawn} == {100} and len(set(drawn)) == LEVELS
    assert {Strength(low=0.7, high=0.7).drawn(n / 10) for n in range(10)} == {0.7}


def test_the_strength_is_a_multiple_of_each_instruction_s_own() -> None:
    assert [(one.name, one.strength) for one in edit_of(SMILE, NO_GLASSES).at(2.0)] == [("smile", 1.7), ("no_glasses", -2.0)]


def test_an_edit_of_one_instruction_is_told_as_that() -> None:
    one = edit_of(NO_GLASSES).as_one(0.5)
    assert one == Instruction(
        name="no_glasses", source="a face", target="a face with glasses", strength=-0.5, expects={"glasses": False, "no_eyewear": True}
    )


def test_a_combination_is_told_by_what_comes_out_and_its_factor() -> None:
    one = edit_of(SMILE, GLASSES).as_one(0.5)
    assert (one.name, one.source, one.strength) == ("smile-glasses", "a face", 0.5)
    assert one.target == "a smiling face and a face with glasses" and one.expects == {"smile": True, "glasses": True}


@pytest.mark.parametrize("instructions", [(SMILE, NO_GLASSES), (NO_GLASSES, SMILE)])
def test_what_a_combination_removes_is_not_in_what_comes_out(instructions: tuple[Instruction, Instruction]) -> None:
    one = edit_of(*instructions).as_one()
    assert "glasses" not in one.target and "smiling" in one.target and one.strength > 0
