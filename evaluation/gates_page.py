"""The page of the gates suite: what was kept, what others say of it, and searched against fixed strengths. Self-contained HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import jinja2

from augmentation.gates import REASONS
from evaluation.drawing import new_figure, plotted

TEMPLATES = Path(__file__).with_name("templates")
PLOT = "strengths.png"
LEAST_NAMED = 0.03
"""Share reached from which a strength has its name in the plot."""


def write(figures: Mapping[str, object], folder: Path) -> list[Path]:
    """Write index.html and its plot into a folder; return their paths, the page first."""
    folder.mkdir(parents=True, exist_ok=True)
    plot = draw(figures)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("gates.html.j2").render(figures=figures, reasons=REASONS, plot=base64.b64encode(plot).decode())
    paths = [folder / "index.html", folder / PLOT]
    paths[0].write_text(page)
    paths[1].write_bytes(plot)
    return paths


def draw(figures: Mapping[str, object]) -> bytes:
    """Return a PNG: the share that reaches the target against the share of the same person, over fixed strengths and by search."""
    overall = figures["overall"]
    assert isinstance(overall, Mapping)
    strengths = overall["strengths"]
    figure, axes = new_figure(7.2, 4.4)
    fixed = {float(factor): point for factor, point in strengths["fixed"].items()}
    axes.plot([100 * p["same_person"] for p in fixed.values()], [100 * p["reached"] for p in fixed.values()], marker="o", markersize=4,
              color="#6d675d", label="one strength for all")  # fmt: skip
    for factor, point in fixed.items():
        if point["reached"] < LEAST_NAMED:  # these lie on each other
            continue
        where = (100 * point["same_person"], 100 * point["reached"])
        axes.annotate(f"\N{MULTIPLICATION SIGN}{factor:g}", where, textcoords="offset points", xytext=(5, -11), fontsize=8, color="#6d675d")
    searched = strengths["searched"]
    low, high = (100 * searched["reached"][end] for end in ("low", "high"))
    share = 100 * searched["reached"]["share"]
    axes.errorbar(100 * searched["same_person"], share, yerr=[[share - low], [high - share]], fmt="D", markersize=8, color="#0f6a6f",
                  capsize=3, label="searched for each sample")  # fmt: skip
    axes.set_xlabel("same person, by the other judge (%)")
    axes.set_ylabel("reaches the target of the success gate (%)")
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    return plotted(figure)
