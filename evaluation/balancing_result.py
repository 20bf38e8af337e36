"""What came out of the balancing example: means over trainings with intervals, paired differences between the ways, and their plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from evaluation.balancing import NAMES
from evaluation.drawing import new_figure, plotted
from pipeline.align import ImageHWC

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVEL = 0.95
FEWEST_SEEDS = 2
INTERVALS = "95 %, Student's t over trainings that differ in their seed; pictures and test people are the same in all of them"
WORST, MEAN = "worst group", "mean of groups"
MEASURES = (WORST, MEAN, *NAMES)
DIFFERENCES = (("augmented", "biased"), ("augmented", "oversampled"), ("oversampled", "biased"))
Accuracy = Mapping[str, float]
"""Share of each group that a classifier is right about."""

COLOURS: Mapping[str, str] = {"biased": "#857d71", "oversampled": "#d98c2b", "augmented": "#1f6f8b"}
LABELS: Mapping[str, str] = {
    "biased": "biased set as it is", "oversampled": "biased set, groups oversampled", "augmented": "augmented by hyperedit",
}  # fmt: skip
SPREAD, GAP = 0.31, 0.3
"""Room between the ways at one tick, where ticks are 1 apart, and more between what sums up and the groups."""
CHANCE = 0.5
SMALL = 9
PLACES: Mapping[str, float] = {measure: place + GAP * (measure in NAMES) for place, measure in enumerate(MEASURES)}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over trainings, and the ends of its interval: Student's t, for trainings that differ in their seed alone."""

    mean: float
    low: float
    high: float
    of_seeds: tuple[float, ...]


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean and interval of two or more values. Raises ValueError on fewer."""
    n = len(values)
    if n < FEWEST_SEEDS:
        raise ValueError(f"an interval needs {FEWEST_SEEDS} or more values, found {n}")
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n)
    reach = float(student.ppf((1 + LEVEL) / 2, n - 1)) * error
    return Estimate(mean=mean, low=mean - reach, high=mean + reach, of_seeds=tuple(values))


def measured(accuracy: Accuracy) -> dict[str, float]:
    """Return all measures of one classifier."""
    shares = [accuracy[name] for name in NAMES]
    return {WORST: min(shares), MEAN: sum(shares) / len(shares), **{name: accuracy[name] for name in NAMES}}


def estimates(runs: Mapping[str, Sequence[Accuracy]]) -> dict[str, dict[str, Estimate]]:
    """Return every measure of each way; `runs` are its classifiers by seed."""
    table = {way: [measured(accuracy) for accuracy in found] for way, found in runs.items()}
    return {way: {measure: estimate([row[measure] for row in rows]) for measure in MEASURES} for way, rows in table.items()}


def differences(found: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, Estimate]]:
    """Return by how much one way is above another, paired by seed."""
    return {
        f"{more} - {less}": {
            measure: estimate([a - b for a, b in zip(found[more][measure].of_seeds, found[less][measure].of_seeds, strict=True)])
            for measure in MEASURES
        }
        for more, less in DIFFERENCES
    }


def plain(found: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, dict[str, object]]]:
    """Return estimates in the types of JSON, to four decimals."""
    return {way: {measure: _plain(one) for measure, one in of.items()} for way, of in found.items()}


def _plain(one: Estimate) -> dict[str, object]:
    ends = {"mean": round(one.mean, 4), "low": round(one.low, 4), "high": round(one.high, 4)}
    return {**ends, "of_seeds": [round(value, 4) for value in one.of_seeds]}


def drawn(found: Mapping[str, Mapping[str, Estimate]], *, counts: Mapping[str, int], pictures: Mapping[str, ImageHWC]) -> bytes:
    """Return the plot as PNG: `counts` are the people of each group in the biased set, `pictures` show somebody of each."""
    figure, axes = new_figure(9.0, 4.9)
    axes.axhline(CHANCE, color="#4a453d", linewidth=0.8, linestyle=(0, (4, 4)), zorder=1)
    axes.text(1, CHANCE, "guessing", transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=SMALL, color="#4a453d")
    for number, (way, of) in enumerate(found.items()):
        _way(axes, way, of, aside=(number - (len(found) - 1) / 2) * SPREAD)
    lowest = min(min(one.low, *one.of_seeds) for of in found.values() for one in of.values())
    axes.set_ylim(max(0.0, min(CHANCE - 0.05, math.floor(lowest * 10) / 10)), 1.05)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}" if share <= 1 else "")
    axes.set_ylabel("right on test people")
    axes.set_xticks(list(PLACES.values()), [_words(measure, counts) for measure in MEASURES], fontsize=SMALL)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    for name, picture in pictures.items():
        _picture(axes, picture, x=PLACES[name])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(found), frameon=False)
    return plotted(figure)


def _words(measure: str, counts: Mapping[str, int]) -> str:
    return f"{measure}\n{counts[measure]} in biased set" if measure in counts else measure.replace(" ", "\n", 1)


def _way(axes: Axes, way: str, of: Mapping[str, Estimate], *, aside: float) -> None:
    """Draw a way: the mean with its interval and its number, single trainings as dots beside it."""
    colour = COLOURS[way]
    for measure, one in of.items():
        x = PLACES[measure] + aside
        axes.scatter([x - 0.06] * len(one.of_seeds), one.of_seeds, s=13, color=colour, alpha=0.4, linewidths=0, zorder=2)
        axes.plot([x, x], [max(0.0, one.low), min(1.0, one.high)], color=colour, linewidth=2, solid_capstyle="round", zorder=3)
        label = LABELS[way] if measure == WORST else None
        axes.scatter([x], [one.mean], s=48, marker="D", color=colour, edgecolors="white", zorder=4, label=label)
        axes.annotate(f"{100 * one.mean:.0f}", (x, one.mean), (5, 0), textcoords="offset points", va="center", fontsize=8, color=colour)


def _picture(axes: Axes, picture: ImageHWC, *, x: float) -> None:
    """Put a picture below a tick and its words."""
    place = axes.inset_axes((x - 0.45, -0.38, 0.9, 0.24), transform=axes.get_xaxis_transform())
    place.imshow(picture, interpolation="lanczos")
    place.set_anchor("N")
    place.axis("off")
