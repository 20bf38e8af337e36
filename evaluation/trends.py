"""How a suite's measures went from run to run: a plot for each, champion and regressions marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from evaluation.drawing import new_figure, plotted
from evaluation.past_runs import CHAMPION_TAG, REGRESSION_TAG, PastRun

SHOWN: Mapping[str, tuple[str, str]] = {
    "attributes/success": ("trend_success", "success over attribute instructions"),
    "styles/style_zero_shot": ("trend_styles", "share of styles that CLIP sees, zero-shot"),
    "attributes/ids": ("trend_ids", "identity similarity to the input"),
    "attributes/lpips": ("trend_lpips", "LPIPS to the input"),
}
"""Metric below a row's name -> file and words."""
MOST_ROWS = 8
FEWEST_RUNS = 2


def trends(runs: Sequence[PastRun]) -> dict[str, tuple[str, bytes]]:
    """Return PNGs by file name with the words of their measure; `runs` are in order of time, the last is the latest; one shows no trend."""
    found: dict[str, tuple[str, bytes]] = {}
    if len(runs) < FEWEST_RUNS:
        return found
    for measure, (name, words) in SHOWN.items():
        lines = lines_of(runs, measure)
        if lines:
            found[name] = (words, _plot(runs, lines, words))
    return found


def lines_of(runs: Sequence[PastRun], measure: str) -> dict[str, list[float | None]]:
    """Return the measure of each run, None where it has none, for the rows of the latest run."""
    ends = f"/{measure}"
    labels = [name.removesuffix(ends) for name in (runs[-1].metrics if runs else {}) if name.endswith(ends)][:MOST_ROWS]
    return {label: [run.metrics.get(label + ends) for run in runs] for label in labels}


def _plot(runs: Sequence[PastRun], lines: Mapping[str, Sequence[float | None]], words: str) -> bytes:
    figure, axes = new_figure(7.2, 3.6)
    places = range(len(runs))
    for label, values in lines.items():
        axes.plot(places, [float("nan") if value is None else value for value in values], marker="o", markersize=4, label=label)
        marked = {REGRESSION_TAG: {"marker": "X", "color": "#c0542f"}, CHAMPION_TAG: {"marker": "*", "color": "#d9a400"}}
        for tag, style in marked.items():
            some = [place for place in places if tag in runs[place].tags and values[place] is not None]
            axes.scatter(some, [values[place] for place in some], s=110, zorder=3, **style)  # type: ignore[arg-type]
    ticks = sorted({round(place * (len(runs) - 1) / 7) for place in range(8)}) if len(runs) > 8 else list(places)
    axes.set_xticks(ticks, [when(runs[place].started) for place in ticks], fontsize=7)
    axes.set_ylabel(words, fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return plotted(figure)


def when(start: datetime) -> str:
    """Return a start as a tick's two lines."""
    return f"{start:%m-%d}\n{start:%H:%M}"
