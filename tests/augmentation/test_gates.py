"""The gates: what passes, which one is named where several would turn an edit down, and what nobody measures is not asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmentation.edits import SAME_PERSON, Gates
from augmentation.gates import REASONS, Measured, certainty, failing

GATES = Gates(success=0.9, identity=0.5, collateral=1, realism=1.2)
AT_THE_LIMIT = Measured(certainty=0.9, identity=0.5, collateral=1, realism=1.2)
BEYOND = {"success": ("certainty", 0.899), "identity": ("identity", 0.499), "collateral": ("collateral", 2), "realism": ("realism", 1.201)}
"""Gate -> what is measured for it, and a value that does not pass."""
probabilities = st.fixed_dictionaries({"smile": st.floats(0, 1), "hat": st.floats(0, 1)})


def test_what_reaches_every_limit_passes() -> None:
    assert failing(GATES, AT_THE_LIMIT, same_person=0.99) is None


@pytest.mark.parametrize("gate", REASONS)
def test_each_gate_turns_down_what_is_beyond_its_limit(gate: str) -> None:
    name, value = BEYOND[gate]
    measured = replace(AT_THE_LIMIT, **{name: value})  # type: ignore[arg-type]
    assert failing(GATES, measured, same_person=None) == gate
    assert failing(replace(GATES, **{gate: None}), measured, same_person=None) is None
    assert failing(GATES, replace(measured, **{name: None}), same_person=None) is None


def test_the_first_gate_that_does_not_pass_is_named_in_the_order_in_which_they_are_told() -> None:
    gates, found = GATES, list[str]()
    measured = Measured(**dict(BEYOND.values()))  # type: ignore[arg-type]
    while reason := failing(gates, measured, same_person=None):
        found.append(reason)
        gates = replace(gates, **{reason: None})
    assert found == list(REASONS) == ["success", "identity", "collateral", "realism"]


def test_the_same_person_is_what_the_network_s_own_threshold_says() -> None:
    gates = replace(GATES, identity=SAME_PERSON)
    assert failing(gates, AT_THE_LIMIT, same_person=0.51) == "identity"
    assert failing(gates, AT_THE_LIMIT, same_person=0.5) is None
    assert failing(gates, AT_THE_LIMIT, same_person=None) is None


def test_zero_is_a_limit_too() -> None:
    gates, measured = Gates(success=None, identity=0.0, collateral=0, realism=None), replace(AT_THE_LIMIT, collateral=0)
    assert failing(gates, replace(measured, identity=0.0), same_person=None) is None
    assert failing(gates, replace(measured, identity=-0.1), same_person=None) == "identity"
    assert failing(gates, replace(measured, collateral=1), same_person=None) == "collateral"


@pytest.mark.parametrize(
    ("views", "expects", "expected"),
    [
        ([{"smile": 0.9, "hat": 0.2}], {"smile": True}, 0.9),
        ([{"smile": 0.9, "hat": 0.25}], {"smile": True, "hat": False}, 0.75),
        ([{"smile": 0.9, "hat": 0.2}, {"smile": 0.6, "hat": 0.2}], {"smile": True}, 0.6),
        ([{"smile": 0.9, "hat": 0.2}, {"smile": 0.9, "hat": 0.5}], {"smile": True, "hat": False}, 0.5),
        ([{"smile": 0.9}], {}, None),
        ([], {"smile": True}, None),
    ],
)
def test_certainty_is_that_of_the_least_certain_view_and_attribute(
    views: list[dict[str, float]], expects: dict[str, bool], expected: float | None
) -> None:
    assert certainty(views, expects) == expected


@given(views=st.lists(probabilities, min_size=1, max_size=3), expects=st.fixed_dictionaries({"smile": st.booleans(), "hat": st.booleans()}))
def test_another_look_never_makes_it_more_certain(views: list[dict[str, float]], expects: dict[str, bool]) -> None:
    found = [certainty(views[:count], expects) for count in range(1, len(views) + 1)]
    assert found == sorted(found, reverse=True)  # type: ignore[type-var]
    assert certainty(views, {"smile": expects["smile"]}) >= found[-1]  # type: ignore[operator]
    assert certainty([*reversed(views)], expects) == found[-1] and all(0 <= one <= 1 for one in found)  # type: ignore[operator]
