"""Figures for the report: numbers as text, histograms as SVG geometry, a heat map as shades."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report_scores import BINS, Distribution, Score

BARS = 32
WIDTH, HEIGHT = 320, 96  # of a histogram's bars, in its own units


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The part of a score's range that its values fill, as bins of its distributions: `first` included, `last` excluded."""

    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar, in the units of the SVG."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """One histogram, ready to draw."""

    title: str
    meaning: str
    mean: str
    bars: tuple[Bar, ...]
    mean_x: float
    ticks: tuple[tuple[float, str], ...]
    summary: str


def common_axis(distributions: Sequence[Distribution]) -> Axis:
    """Return the smallest axis that shows all values of several distributions of one score, in steps that make whole bars."""
    filled = np.flatnonzero(np.sum([d.bins for d in distributions], axis=0)) if distributions else np.array([], dtype=np.int64)
    if filled.size == 0:
        return Axis(first=0, last=BINS)
    span = int(filled[-1]) - int(filled[0]) + 1
    bars_wide = max(1, math.ceil(span / BARS))
    length = min(BINS, bars_wide * BARS)
    first = max(0, min(int(filled[0]) - (length - span) // 2, BINS - length))
    return Axis(first=first, last=first + length)


def histogram(distribution: Distribution, axis: Axis) -> Histogram:
    """Lay out the histogram of one score on an axis that it may share with others."""
    score = distribution.score
    step = max(1, math.ceil((axis.last - axis.first) / BARS))
    shown = distribution.bins[axis.first : axis.last]
    counts = [int(shown[start : start + step].sum()) for start in range(0, len(shown), step)]
    tallest, width = max([*counts, 1]), WIDTH / max(1, len(counts))
    bars = tuple(
        Bar(x=round(i * width, 2), y=round(HEIGHT * (1 - n / tallest), 2), width=round(width - 1, 2), height=round(HEIGHT * n / tallest, 2))
        for i, n in enumerate(counts)
        if n
    )
    low, high = (score.low + (score.high - score.low) * edge / BINS for edge in (axis.first, axis.last))
    mean_x = WIDTH * (distribution.mean - low) / (high - low) if distribution.count else 0.0
    ticks = tuple((round(WIDTH * (value - low) / (high - low), 1), format_score(value, score)) for value in _round_values(low, high))
    mean = mean_and_deviation(distribution)
    edges = format_score(low, score), format_score(high, score)
    return Histogram(
        title=score.label,
        meaning=score.meaning,
        mean=mean,
        bars=bars,
        mean_x=round(min(max(mean_x, 0.0), WIDTH), 2),
        ticks=ticks,
        summary=f"Histogram of {score.label} over {distribution.count} edits: mean {mean}, from {edges[0]} to {edges[1]}",
    )


def _round_values(low: float, high: float) -> list[float]:
    """Return the multiples of 1, 2 or 5 times a power of ten inside a range, three to seven of them."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def format_score(value: float, score: Score) -> str:
    """Print a score with its digits, a true minus and no negative zero."""
    text = f"{value:.{score.digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "\N{MINUS SIGN}")


def mean_and_deviation(distribution: Distribution) -> str:
    """Print mean and standard deviation, or a dash when there is no value."""
    if not distribution.count:
        return "\N{EN DASH}"
    score = distribution.score
    return f"{format_score(distribution.mean, score)} \N{PLUS-MINUS SIGN} {format_score(distribution.deviation, score)}"


def format_percent(value: float | None, digits: int = 0) -> str:
    """Print a percentage, or a dash when nothing could be judged."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f} %"


def format_count(value: int) -> str:
    """Print a whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def counted(value: int, noun: str) -> str:
    """Print how many there are of something."""
    return f"{format_count(value)} {noun if value == 1 else noun + 's'}"


def format_duration(seconds: float) -> str:
    """Print a duration as a person would say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
