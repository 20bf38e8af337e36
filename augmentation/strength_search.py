"""The smallest strength that reaches a target, for many edits at once: a bisection whose tries are made in batches.

Expects of an edit that it shows more, and keeps less, the stronger it is; where that is not so the strength found still reaches the
target, but need not be the smallest that does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from augmentation.edits import Strength

FIRST = 1.0
RISES = 3
"""Steps from the first strength to the highest, where the first is too weak: too strong an edit may show less than a weaker one."""


class Tried(Enum):
    """What one strength came to."""

    REACHED = "reached"
    SHORT = "short"
    """Not reached yet, a stronger one may."""
    LOST = "lost"
    """Not reached, and a stronger one would not be kept."""


@dataclass(kw_only=True)
class _Search:
    """Between which strengths the smallest lies: above `low`, which begins the range or did not reach, and once `found` at most `high`."""

    strength: Strength
    low: float
    high: float
    now: float
    found: bool = False
    halvings: int = 0
    rises: int = 0
    over: bool = False

    def tell(self, tried: Tried) -> None:
        """Take in what the strength that was tried came to, and say in `now` what to try next."""
        if tried is Tried.REACHED:
            self.found, self.high = True, self.now
        else:
            self.low = self.now
            if not self.found and (tried is Tried.LOST or self.now >= self.strength.high):
                self.over = True
                return
        self.over = self.halvings >= self.strength.steps or self.low >= self.high
        self.halvings += self.found
        self.rises += not self.found
        self.now = (self.low + self.high) / 2 if self.found else self._risen()

    def _risen(self) -> float:
        first = first_of(self.strength)
        return self.strength.high if self.rises >= RISES else first + (self.strength.high - first) * self.rises / RISES


def find_smallest(strengths: Sequence[Strength], try_all: Callable[[Sequence[tuple[int, float]]], Sequence[Tried]]) -> list[float | None]:
    """Return for each edit the smallest factor found to reach its target, None where none did.

    `try_all` takes pairs of an edit's place and the factor to try, one per edit that is still searched for, and says what became of each.
    """
    searches = [_begun(strength) for strength in strengths]
    while pending := [place for place, search in enumerate(searches) if not search.over]:
        results = try_all([(place, searches[place].now) for place in pending])
        for place, tried in zip(pending, results, strict=True):
            searches[place].tell(tried)
    return [search.high if search.found else None for search in searches]


def _begun(strength: Strength) -> _Search:
    return _Search(strength=strength, low=strength.low, high=strength.high, now=first_of(strength))


def first_of(strength: Strength) -> float:
    """Return the strength that is tried first: the instruction's own, or the nearest that is allowed."""
    return min(max(FIRST, strength.low), strength.high)
