"""A run against the champion: what became worse beyond a tolerance, told by bootstrap intervals and not by bare differences.

Where both runs measured the same portraits they are compared portrait by portrait, else as two samples. A difference is a regression only
where its whole interval lies beyond the tolerance. The intervals are so wide that all comparisons of a run together raise a false alarm
with the probability `FALSE_ALARM` at most, even if nothing were tolerated (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from evaluation.bootstrap import Interval, Values, paired, unpaired
from evaluation.editing_plan import STYLES
from evaluation.samples import Samples, SampleTable

FALSE_ALARM = 0.001
FEWEST = 8
"""Portraits below which an instruction is not compared."""
WORST = 5
"""Portraits that an explanation names."""
TOGETHER = "all {}"
"""What stands for an instruction where the mean over all instructions of a group is compared."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """By how much a measure's mean may become worse, in its own unit; `styles` says whether it means anything for an edit of style."""

    worse_by: float
    more_is_better: bool = True
    styles: bool = False


TOLERANCES: Mapping[str, Tolerance] = {
    "success": Tolerance(worse_by=0.05, styles=True),
    "style_zero_shot": Tolerance(worse_by=0.05, styles=True),
    "same_person": Tolerance(worse_by=0.05),
    "ids": Tolerance(worse_by=0.02),
    "lpips": Tolerance(worse_by=0.03, more_is_better=False),
    "collateral": Tolerance(worse_by=0.15, more_is_better=False),
}
"""Shares of portraits, cosine, LPIPS, and attributes that changed unasked per edit."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A measure now and as the champion had it: means, the portraits of each, and the ends of the interval of now - champion.

    `interval` is None where the bare difference is within the tolerance. `worst` names the portraits that became worse by most or, where
    the portraits are others, those with the worst values now.
    """

    method: str
    instruction: str
    measure: str
    now: float
    champion: float
    portraits: tuple[int, int]
    is_paired: bool
    tolerance: Tolerance
    interval: Interval | None = None
    worst: tuple[str, ...] = ()

    @property
    def is_regression(self) -> bool:
        """Say whether the whole interval is worse than tolerated."""
        if self.interval is None:
            return False
        return (
            -self.interval.high > self.tolerance.worse_by if self.tolerance.more_is_better else self.interval.low > self.tolerance.worse_by
        )

    def told(self, level: str) -> str:
        """Return the difference as a line to read."""
        assert self.interval is not None
        whose = "the same portraits" if self.is_paired else "other portraits"
        bound = -self.tolerance.worse_by if self.tolerance.more_is_better else self.tolerance.worse_by
        return (
            f"{self.method}, {self.instruction}: {self.measure} {self.now:.3f} on {self.portraits[0]} portraits, the champion "
            f"{self.champion:.3f} on {self.portraits[1]} ({whose}); difference {self.now - self.champion:+.3f}, {level} interval "
            f"{self.interval.low:+.3f} to {self.interval.high:+.3f}, tolerated {bound:+.3f}; worst portraits: {', '.join(self.worst)}"
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All comparisons of a run with the run `champion`; `left_out` says what could not be compared."""

    champion: str
    differences: Sequence[Difference]
    left_out: Sequence[str] = field(default_factory=tuple)

    @property
    def regressions(self) -> list[Difference]:
        """Return what became worse, the widest gap first."""
        found = [one for one in self.differences if one.is_regression]
        return sorted(found, key=lambda one: -abs(one.now - one.champion) / max(one.tolerance.worse_by, 1e-9))

    @property
    def level(self) -> str:
        """Return the confidence of the intervals as text."""
        return f"{100 * (1 - FALSE_ALARM):g} % (over all {len(self.differences)} comparisons)"

    def explanation(self) -> str:
        """Return what is worse than the champion, metric by metric, or that nothing is."""
        worse = self.regressions
        lines = [one.told(self.level) for one in worse]
        head = (
            f"REGRESSION against the champion, run {self.champion}: {len(worse)} of {len(self.differences)} comparisons are worse than "
            "tolerated" if worse else f"no regression against the champion, run {self.champion}, in {len(self.differences)} comparisons"
        )  # fmt: skip
        return "\n".join([head, *lines, *(f"not compared: {one}" for one in self.left_out)])

    def plain(self) -> dict[str, object]:
        """Return the verdict in the types of JSON."""
        rows = [asdict(one) | {"is_regression": one.is_regression} for one in self.differences]
        return {
            "champion": self.champion, "regressions": len(self.regressions), "explanation": self.explanation(), "differences": rows,
            "left_out": list(self.left_out),
        }  # fmt: skip


def shared(now: Sequence[tuple[str, str]], champion: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the methods and instructions that both have."""
    return [cell for cell in now if cell in set(champion)]


def compare(now: SampleTable, champion: SampleTable, *, run: str, tolerances: Mapping[str, Tolerance] = TOLERANCES) -> Verdict:
    """Compare every tolerated measure of every method and instruction that both runs have, and of all instructions of a group together."""
    cells = shared(list(now), list(champion))
    left_out = [f"{method}, {instruction}: not measured by both runs" for method, instruction in sorted({*now, *champion} - set(cells))]
    pairs = {cell: (now[cell], champion[cell]) for cell in cells}
    few = [cell for cell, (a, b) in pairs.items() if min(len(a.keys), len(b.keys)) < FEWEST]
    left_out += [f"{method}, {instruction}: fewer than {FEWEST} portraits" for method, instruction in few]
    pairs = {cell: both for cell, both in pairs.items() if cell not in few}
    pairs |= dict(_together(pairs))
    bare = [
        _bare(cell, measure, tolerance, both) for cell, both in pairs.items() for measure, tolerance in tolerances.items()
        if _applies(measure, tolerance, both)
    ]  # fmt: skip
    tail = FALSE_ALARM / max(1, len(bare))
    found = [one if within(one) else _with_interval(one, pairs[one.method, one.instruction], tail=tail) for one in bare]
    return Verdict(champion=run, differences=found, left_out=left_out)


def within(one: Difference) -> bool:
    """Say whether a bare difference is tolerated: then its interval, which holds it, cannot lie beyond."""
    worse = one.champion - one.now if one.tolerance.more_is_better else one.now - one.champion
    return worse <= one.tolerance.worse_by


def _applies(measure: str, tolerance: Tolerance, both: tuple[Samples, Samples]) -> bool:
    return all(measure in one.columns for one in both) and (tolerance.styles or both[0].group != STYLES)


def _together(pairs: Mapping[tuple[str, str], tuple[Samples, Samples]]) -> Iterator[tuple[tuple[str, str], tuple[Samples, Samples]]]:
    """Yield each method's mean over the instructions of each group, by portrait: the edits of one portrait are not independent."""
    groups: dict[tuple[str, str], list[tuple[Samples, Samples]]] = {}
    for (method, _), both in pairs.items():
        groups.setdefault((method, both[0].group), []).append(both)
    for (method, group), found in groups.items():
        if len(found) > 1:
            yield (method, TOGETHER.format(group)), (_mean([a for a, _ in found]), _mean([b for _, b in found]))


def _mean(parts: Sequence[Samples]) -> Samples:
    """Return the means over instructions for each portrait that any of them has."""
    measures = set.intersection(*(set(part.columns) for part in parts))
    sums: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for part in parts:
        for place, key in enumerate(part.keys):
            counts[key] = counts.get(key, 0) + 1
            for name in measures:
                sums.setdefault(name, {})[key] = sums.get(name, {}).get(key, 0.0) + float(part.columns[name][place])
    keys = tuple(counts)
    columns = {name: np.array([by_key[key] / counts[key] for key in keys]) for name, by_key in sums.items()}
    return Samples(group=parts[0].group, keys=keys, columns=columns)


def _aligned(both: tuple[Samples, Samples], measure: str) -> tuple[Values, Values, tuple[str, ...], bool]:
    """Return the values of now and of the champion with the keys of now: of the portraits that both have, where those are enough."""
    now, champion = both
    place = {key: number for number, key in enumerate(champion.keys)}
    common = [number for number, key in enumerate(now.keys) if key in place]
    if len(common) < FEWEST:
        return now.columns[measure], champion.columns[measure], now.keys, False
    keys = tuple(now.keys[number] for number in common)
    return now.columns[measure][common], champion.columns[measure][[place[key] for key in keys]], keys, True


def _bare(cell: tuple[str, str], measure: str, tolerance: Tolerance, both: tuple[Samples, Samples]) -> Difference:
    a, b, _, is_paired = _aligned(both, measure)
    return Difference(
        method=cell[0], instruction=cell[1], measure=measure, now=float(a.mean()), champion=float(b.mean()), portraits=(len(a), len(b)),
        is_paired=is_paired, tolerance=tolerance,
    )  # fmt: skip


def _with_interval(one: Difference, both: tuple[Samples, Samples], *, tail: float) -> Difference:
    a, b, keys, is_paired = _aligned(both, one.measure)
    interval = paired(a, b, tail=tail) if is_paired else unpaired(a, b, tail=tail)
    order = np.argsort((a - b if is_paired else a) * (1 if one.tolerance.more_is_better else -1), kind="stable")
    worst = tuple(keys[place] for place in order[:WORST])
    return replace(one, interval=interval, worst=worst)
