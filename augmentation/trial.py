"""Try edits of the samples of a window, at strengths that are given or searched for, and ask the gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from augmentation.edits import Edit
from augmentation.gates import failing, identity_threshold
from augmentation.strength_search import Tried, find_smallest
from augmentation.window import Made, Try, Window


@dataclass(frozen=True, kw_only=True)
class Want:
    """One edit wanted of one sample of a window."""

    row: int
    edit: Edit
    cell: int = -1
    also: Mapping[str, bool]


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What became of it; `reason` names the gate that it did not pass."""

    want: Want
    made: Made
    reason: str


def try_edits(window: Window, wants: Sequence[Want], *, factor_of: Callable[[Want], float], same_person: float | None) -> list[Verdict]:
    """Make the edits that are wanted, those of automatic strength at the smallest that reaches its target, and ask the gates.

    `factor_of` gives the strength of the others, as a multiple of the instruction's own; `same_person` is the identity network's
    threshold.
    """
    last: dict[int, Made] = {}
    reached: dict[int, Made] = {}

    def try_all(pairs: Sequence[tuple[int, float]]) -> list[Tried]:
        tries = [Try(row=wants[i].row, edit=wants[i].edit, factor=factor, also=wants[i].also) for i, factor in pairs]
        found = []
        for (i, _), made in zip(pairs, window.make(tries), strict=True):
            last[i] = made
            found.append(_said(made, same_person))
            if found[-1] is Tried.REACHED:
                reached[i] = made
        return found

    auto = [i for i, want in enumerate(wants) if want.edit.strength.auto]
    find_smallest([wants[i].edit.strength for i in auto], lambda pairs: try_all([(auto[place], factor) for place, factor in pairs]))
    if fixed := [(i, factor_of(want)) for i, want in enumerate(wants) if not want.edit.strength.auto]:
        try_all(fixed)
    made = [reached.get(i, last[i]) for i in range(len(wants))]
    return [
        Verdict(want=want, made=one, reason=failing(want.edit.gates, one.measured, same_person=same_person) or "")
        for want, one in zip(wants, made, strict=True)
    ]


def _said(made: Made, same_person: float | None) -> Tried:
    gates, measured = made.tried.edit.gates, made.measured
    if gates.success is not None and measured.certainty is not None and measured.certainty >= gates.success:
        return Tried.REACHED
    threshold = identity_threshold(gates, same_person)
    lost = threshold is not None and measured.identity is not None and measured.identity < threshold
    return Tried.LOST if lost else Tried.SHORT
