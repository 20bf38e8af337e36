"""The page of the inversion suite: our table beside the paper's, plots, and one sheet of reconstructions. Self-contained HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from PIL import Image
from torch import Tensor

from evaluation.domain_adaptation import Adapted
from evaluation.drawing import new_figure, plotted, png, slug
from evaluation.inversion_ablations import ABLATIONS
from evaluation.inversion_suite import Numbers
from pipeline.invert import to_pixels

TEMPLATES = Path(__file__).with_name("templates")
COLUMNS: Mapping[str, tuple[str, bool]] = {
    "identity": ("ID", True), "same_person": ("Same person", True), "ms_ssim": ("MS-SSIM", True), "lpips": ("LPIPS", False),
    "l2": ("L2", False), "psnr_db": ("PSNR (dB)", True), "seconds": ("Seconds", False),
}  # fmt: skip
"""Measure -> heading, and whether more is better."""
PAPER: Mapping[str, Mapping[str, float]] = {
    "w_projection": {}, "wplus_projection": {"identity": 0.78, "ms_ssim": 0.90, "lpips": 0.09, "l2": 0.020, "seconds": 227.55},
    "pti": {"identity": 0.85, "ms_ssim": 0.92, "lpips": 0.09, "l2": 0.015, "seconds": 55.715},
    "psp": {"identity": 0.56, "ms_ssim": 0.76, "lpips": 0.17, "l2": 0.034, "seconds": 0.106},
    "e4e": {"identity": 0.50, "ms_ssim": 0.72, "lpips": 0.20, "l2": 0.052, "seconds": 0.106},
    "restyle_psp": {"identity": 0.66, "ms_ssim": 0.79, "lpips": 0.13, "l2": 0.030, "seconds": 0.366},
    "restyle_e4e": {"identity": 0.52, "ms_ssim": 0.74, "lpips": 0.19, "l2": 0.041, "seconds": 0.366},
    "hyperstyle": {"identity": 0.76, "ms_ssim": 0.84, "lpips": 0.09, "l2": 0.019, "seconds": 1.234},
}  # fmt: skip
"""HyperStyle Table 2, CelebA-HQ at 1024 pixels on the authors' GPU, by our names."""
SHEET_ROWS = 8
SHEETS = ("sheet", "adapted")


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """All that the page shows; `curves` are points of `editability` by attribute and method, `equal` what they say at equal changes."""

    pack: str
    features: Mapping[str, str]
    table: Mapping[str, Numbers]
    reconstructions: Mapping[str, Tensor]
    wanted_NCHW: Tensor
    curves: Mapping[str, Mapping[str, Sequence[Numbers]]] = field(default_factory=dict)
    equal: Mapping[str, Mapping[str, Mapping[str, float | None]]] = field(default_factory=dict)
    drift: Mapping[str, float] = field(default_factory=dict)
    ablations: Mapping[str, Mapping[str, Numbers]] = field(default_factory=dict)
    """Rows by label, by name of the ablation."""
    adapted: Mapping[str, Adapted] = field(default_factory=dict)
    adapted_text: str = ""
    held_out: bool = True
    device: str = "cpu"


def write(findings: Findings, folder: Path) -> list[Path]:
    """Write index.html, sheet.png and the plots into a folder; return their paths, the page first."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"sheet": sheet(findings.wanted_NCHW, findings.reconstructions), "trade_off": trade_off(findings.table)}
    pictures |= {f"editability_{slug(name)}": editability(name, curves) for name, curves in findings.curves.items()}
    if findings.adapted:
        columns = {f"{label} {which}": made for label, one in findings.adapted.items() for which, made in one.pictures().items()}
        pictures["adapted"] = sheet(findings.wanted_NCHW, columns)
    paths = [folder / "index.html"]
    for name, data in pictures.items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(data)
    encoded = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("inversion.html.j2").render(
        findings=findings, pictures=encoded, columns=COLUMNS, best=best(findings.table), paper=PAPER, ablations=ABLATIONS,
        plots=[name for name in pictures if name not in SHEETS],
    )  # fmt: skip
    paths[0].write_text(page)
    return paths


def best(rows: Mapping[str, Numbers]) -> dict[str, str]:
    """Return the best method of every measure."""
    return {
        name: (max if more else min)(rows, key=lambda label, name=name: rows[label][name])  # type: ignore[misc]
        for name, (_, more) in COLUMNS.items()
        if rows and all(name in row for row in rows.values())
    }


def sheet(wanted_NCHW: Tensor, reconstructions: Mapping[str, Tensor], *, scale: int = 2, gap: int = 4) -> bytes:
    """Return a PNG: a row per person, the input first, then every method in the order given."""
    columns = [wanted_NCHW, *reconstructions.values()]
    rows = min(SHEET_ROWS, *map(len, columns))
    side = wanted_NCHW.shape[-1] * scale
    canvas = Image.new("RGB", (len(columns) * (side + gap) - gap, rows * (side + gap) - gap), "white")
    for place, column in enumerate(columns):
        pixels = to_pixels(column[:rows])
        for row in range(rows):
            picture = Image.fromarray(pixels[row]).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(picture, (place * (side + gap), row * (side + gap)))
    return png(canvas)


def trade_off(rows: Mapping[str, Numbers]) -> bytes:
    """Return a PNG of identity similarity (MS-SSIM in a pack without an identity network) against seconds per picture."""
    figure, axes = new_figure()
    measure = "identity" if all("identity" in numbers for numbers in rows.values()) else "ms_ssim"
    for label, numbers in rows.items():
        axes.errorbar(numbers["seconds"], numbers[measure], yerr=numbers.get(f"{measure}_se", 0.0), fmt="o", markersize=7)
        axes.annotate(label, (numbers["seconds"], numbers[measure]), textcoords="offset points", xytext=(6, 5), fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel("seconds per picture (log)")
    axes.set_ylabel("identity similarity" if measure == "identity" else "MS-SSIM")
    return plotted(figure)


def editability(attribute: str, curves: Mapping[str, Sequence[Numbers]]) -> bytes:
    """Return a PNG of identity similarity against the measured change of an attribute (HyperStyle Figure 6)."""
    figure, axes = new_figure()
    for label, curve in curves.items():
        points = sorted((point["change"], point["identity"]) for point in curve)
        axes.plot([change for change, _ in points], [same for _, same in points], marker="o", markersize=4, label=label)
    axes.set_xlabel(f"change of the probability of {attribute}")
    axes.set_ylabel("identity similarity to the input")
    axes.legend(frameon=False, fontsize=9)
    return plotted(figure)
