"""The page of the editing suite: the papers' tables beside ours, what changed unasked, claims and sheets. Self-contained HTML."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from evaluation import editing_papers as papers
from evaluation.champion import Verdict
from evaluation.drawing import new_figure, plotted, slug
from evaluation.editing_checks import LESS_IS_BETTER, Check, compared, ranks
from evaluation.editing_plan import ATTRIBUTES, PAIRS, STYLE_PREFIX, STYLES
from evaluation.editing_suite import INDEPENDENT, Cell, Numbers, Row, means
from pipeline.frechet import FEWEST

TEMPLATES = Path(__file__).with_name("templates")
SEEN = 0.005
"""The share of edits below which an unasked change gets no column."""
SWEPT: Mapping[str, bool] = {"psnr_db": True, "lpips": False, "ssim": True, "ids": True, "cs": True}
"""Column of HyperEditor Table 3 -> whether more is better."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """All that the page shows; `sheets` are PNGs by title, `sizes` mean offsets by instruction and layer."""

    pack: str
    device: str
    features: Mapping[str, str]
    rows: Mapping[str, Row]
    checks: Sequence[Check]
    targets: Mapping[str, str]
    """Target text by instruction."""
    fid: Sequence[str] = ("smile", "old")
    sheets: Mapping[str, Sheet] = field(default_factory=dict)
    verdict: Verdict | None = None
    """How the run stands against the champion."""
    trends: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    """Plots over this and earlier runs by file, with their words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """A picture of the page with its words."""

    title: str
    about: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Value:
    """A table's value as text, its standard error as text, and whether it is the best of its column."""

    text: str
    error: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Our table in a paper's layout, and the paper's."""

    headings: Sequence[str]
    rows: Mapping[str, Sequence[Value]]
    paper: papers.PaperTable | None = None


KINDS = (ATTRIBUTES, PAIRS)
ABLATED = (
    ("FID ↓", ATTRIBUTES, "fid", "%.3f", 1.0), ("CMP ↑", ATTRIBUTES, "cmp", "%.3f", 1.0), ("AMA ↑", ATTRIBUTES, "ama", "%.1f", 100.0),
    ("AMA, several ↑", PAIRS, "ama", "%.1f", 100.0), ("IDS ↑", ATTRIBUTES, "ids", "%.3f", 1.0),
    ("same person ↑", ATTRIBUTES, "same_person", "%.1f", 100.0), ("unasked changes ↓", ATTRIBUTES, "collateral", "%.2f", 1.0),
)  # fmt: skip


def write(findings: Findings, folder: Path) -> list[Path]:
    """Write index.html and its pictures into a folder; return their paths, the page first."""
    folder.mkdir(parents=True, exist_ok=True)
    main = compared(findings.rows)
    plots = {"success_identity": trade_off(main)} if main else {}
    maps = ((label, heat_map(row)) for label, row in main.items())
    heat = {f"unasked_{place}_{slug(label)}": (label, data) for place, (label, data) in enumerate(maps) if data is not None}
    plots |= {name: data for name, (_, data) in findings.trends.items()}
    pictures = plots | {name: data for name, (_, data) in heat.items()} | {name: sheet.data for name, sheet in findings.sheets.items()}
    paths = [folder / "index.html"]
    for name, data in pictures.items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(data)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("editing.html.j2").render(
        findings=findings, pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
        hypereditor=hypereditor_table(findings), clipinverter=clipinverter_table(main), ablations=ablation_table(findings.rows),
        sweep=sweep_table(findings.rows), success=success_table(findings.rows, ATTRIBUTES), paired=success_table(findings.rows, "pairs"),
        styles=success_table(findings.rows, STYLES), costs=costs_table(findings.rows),
        heat={name: label for name, (label, _) in heat.items()},
        left_out=[label for label in findings.rows if label not in main], portraits=portraits(findings.rows), fewest=FEWEST,
    )  # fmt: skip
    paths[0].write_text(page)
    return paths


def hypereditor_table(findings: Findings) -> Table:
    """Return our rows in the layout of HyperEditor Table 1, the best of those that are shown marked."""
    shown = compared(findings.rows)
    rows = {label: row for label, row in findings.rows.items() if row.attributes}
    heads = {"psnr_db": ("PSNR ↑", "%.2f"), "lpips": ("LPIPS ↓", "%.3f"), "ssim": ("SSIM ↑", "%.3f"), "ids": ("IDS ↑", "%.3f")}
    numbers = {label: row.attributes for label, row in rows.items()}
    columns = {heading: _column(numbers, name, form=form, among=shown) for name, (heading, form) in heads.items()}
    for place, name in enumerate(findings.fid):
        cells = {label: _numbers(row.cells.get(name)) for label, row in rows.items()}
        columns[f"FID-{place} ↓"] = _column(cells, "fid", form="%.3f", among=shown)
    columns["CS ↑"] = _column(numbers, "cs", form="%.2f", among=shown)
    if any(f"{INDEPENDENT}cs" in found for found in numbers.values()):
        columns["CS, independent ↑"] = _column(numbers, f"{INDEPENDENT}cs", form="%.2f", among=shown)
    columns["Success ↑"] = _column(numbers, "success", form="%.1f", scale=100, among=shown)
    columns["Nop ↓"] = {label: Value(text=millions(row.heads or row.parameters)) for label, row in rows.items()}
    return _table(columns, shown, paper=papers.HYPEREDITOR_1)


def clipinverter_table(rows: Mapping[str, Row]) -> Table:
    """Return our rows in the layout of CLIPInverter Table 1: AMA in per cent, ID times a hundred."""
    single = {label: row.attributes for label, row in rows.items()}
    columns = {"FID ↓": _column(single, "fid", form="%.3f"), "CMP ↑": _column(single, "cmp", form="%.3f")}
    columns["AMA single ↑"] = _column(single, "ama", form="%.1f", scale=100)
    columns["AMA multiple ↑"] = _column({label: row.pairs for label, row in rows.items()}, "ama", form="%.1f", scale=100)
    columns["ID ↑"] = _column(single, "ids", form="%.1f", scale=100)
    return _table(columns, rows, paper=papers.CLIPINVERTER_1)


def ablation_table(rows: Mapping[str, Row]) -> Table | None:
    """Return the rows that leave something out, each below the row that it is compared with (CLIPInverter Table 4); None without any.

    Figures are over what all rows of a group were asked, and the best is that of the group.
    """
    groups: dict[str, dict[str, Row]] = {}
    for label, row in rows.items():
        if row.ablates in rows and row.sweep is None and not row.reworded:
            groups.setdefault(str(row.ablates), {str(row.ablates): rows[str(row.ablates)]})[label] = row
    columns: dict[str, dict[str, Value]] = {}
    for group in groups.values():
        asked = set.intersection(*(set(row.cells) for row in group.values()))
        numbers = {
            label: {kind: means([cell for name, cell in row.cells.items() if name in asked and cell.group == kind]) for kind in KINDS}
            for label, row in group.items()
        }
        for heading, kind, name, form, scale in ABLATED:
            column = _column({label: found[kind] for label, found in numbers.items()}, name, form=form, scale=scale)
            columns.setdefault(heading, {}).update(column)
    chosen = {label: row for group in groups.values() for label, row in group.items()}
    return _table(columns, chosen, paper=papers.CLIPINVERTER_4) if groups else None


def sweep_table(rows: Mapping[str, Row]) -> Table | None:
    """Return the rows of the lambda_std sweep in the layout of HyperEditor Table 3, ranks in brackets; None without any."""
    swept = dict(sorted(((label, row) for label, row in rows.items() if row.sweep is not None), key=lambda one: one[1].sweep or 0.0))
    if not swept:
        return None
    columns: dict[str, dict[str, Value]] = {}
    places: dict[str, list[int]] = {label: [] for label in swept}
    for name, more in SWEPT.items():
        figures = {label: row.attributes[name] for label, row in swept.items() if name in row.attributes}
        rank = ranks(figures, more=more)
        for label, place in rank.items():
            places[label].append(place)
        heading = f"{name.removesuffix('_db').upper()} {'↑' if more else '↓'}"
        columns[heading] = {label: Value(text=f"{figures[label]:.3f} ({rank[label]})", best=rank[label] == 1) for label in figures}
    columns["AR ↓"] = {label: Value(text=f"{sum(found) / len(found):.1f}") for label, found in places.items() if found}
    columns["Nop ↓"] = {label: Value(text=millions(row.heads or row.parameters)) for label, row in swept.items()}
    return _table(columns, swept, paper=papers.HYPEREDITOR_3)


def success_table(rows: Mapping[str, Row], kind: str) -> Table | None:
    """Return the success of every method with every instruction of a kind, in per cent; that of styles is CLIP's choice among styles."""
    names = list(dict.fromkeys(name for row in rows.values() for name, cell in row.cells.items() if cell.group == kind))
    measure = "style_zero_shot" if kind == STYLES else "success"
    cells = {name: {label: _numbers(row.cells.get(name)) for label, row in rows.items()} for name in names}
    whole = [label for label, row in rows.items() if all(name in row.cells for name in names)]
    columns = {name.replace("_", " "): _column(cells[name], measure, form="%.0f", scale=100) for name in names}
    wholes: dict[str, Numbers] = {label: getattr(row, kind) for label, row in rows.items()}
    columns["mean"] = _column(wholes, measure, form="%.1f", scale=100, among=whole)
    if kind == STYLES:
        if any(f"{INDEPENDENT}{measure}" in numbers for numbers in wholes.values()):
            columns["mean by an independent CLIP"] = _column(wholes, f"{INDEPENDENT}{measure}", form="%.1f", scale=100, among=whole)
        columns["mean by the classifier"] = _column(wholes, "success", form="%.1f", scale=100, among=whole)
    else:
        if any(f"{INDEPENDENT}{measure}" in numbers for numbers in wholes.values()):
            name = "mean by an independent classifier"
            columns[name] = _column(wholes, f"{INDEPENDENT}{measure}", form="%.1f", scale=100, among=whole)
        columns["unasked changes"] = _column(wholes, "collateral", form="%.2f", among=whole)
        columns["same person"] = _column(wholes, "same_person", form="%.1f", scale=100, among=whole)
    return _table(columns, {label: row for label, row in rows.items() if wholes[label]}) if names else None


def costs_table(rows: Mapping[str, Row]) -> Table:
    """Return the seconds per picture of inversion and edit, and what the training took."""
    headings = ("Editor", "Inverter", "Portraits", "Inversion (s)", "Edit (s)", "Training", "Parameters")
    columns: dict[str, dict[str, Value]] = {heading: {} for heading in headings}
    for label, row in rows.items():
        seconds = [cell.numbers["seconds"] for cell in row.cells.values()]
        columns["Editor"][label], columns["Inverter"][label] = Value(text=row.editor), Value(text=row.inverter)
        columns["Portraits"][label] = Value(text=portraits({label: row}))
        columns["Inversion (s)"][label] = Value(text=f"{row.inversion_s:.3g}")
        columns["Edit (s)"][label] = Value(text=f"{sum(seconds) / len(seconds):.3g}")
        columns["Training"][label] = Value(text=duration(row.training_s))
        columns["Parameters"][label] = Value(text=millions(row.parameters))
    return _table(columns, rows)


def _numbers(cell: Cell | None) -> Numbers:
    return {} if cell is None else cell.numbers


def _column(
    rows: Mapping[str, Numbers], name: str, *, form: str, scale: float = 1.0, among: Collection[str] | None = None
) -> dict[str, Value]:
    """Return a column's values as text, the best one marked, of the rows `among` where given."""
    found = {label: numbers[name] for label, numbers in rows.items() if name in numbers}
    judged = [value for label, value in found.items() if among is None or label in among]
    top = (min if name in LESS_IS_BETTER else max)(judged, default=0.0)
    return {
        label: Value(
            text=form % (value * scale), best=value == top and len(judged) > 1 and (among is None or label in among),
            error=form % (rows[label][f"{name}_se"] * scale) if f"{name}_se" in rows[label] else "",
        )
        for label, value in found.items()
    }  # fmt: skip


def _table(columns: Mapping[str, Mapping[str, Value]], rows: Mapping[str, Row], *, paper: papers.PaperTable | None = None) -> Table:
    empty = Value(text="–")
    values = {label: [column.get(label, empty) for column in columns.values()] for label in rows}
    return Table(headings=list(columns), rows=values, paper=paper)


def millions(count: int | None) -> str:
    """Return a number of parameters as the papers print it."""
    return "–" if count is None else f"{count / 1e6:.2f} M"


def duration(seconds: float | None) -> str:
    """Return a time as a person says it."""
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def portraits(rows: Mapping[str, Row]) -> str:
    """Say on how many portraits the instructions were measured."""
    counts = sorted({cell.portraits for row in rows.values() for cell in row.cells.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def trade_off(rows: Mapping[str, Row]) -> bytes:
    """Return a PNG of identity similarity against success."""
    figure, axes = new_figure()
    for label, row in rows.items():
        x, y = row.attributes["success"], row.attributes["ids"]
        errors = row.attributes.get("success_se", 0.0), row.attributes.get("ids_se", 0.0)
        axes.errorbar(x, y, xerr=errors[0], yerr=errors[1], fmt="o", markersize=7)
        side = "right" if x > 0.6 else "left"
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(-7 if x > 0.6 else 7, 6), fontsize=9, ha=side)
    axes.set_xlim(-0.05, 1.05)
    axes.set_xlabel("success over attribute instructions")
    axes.set_ylabel("identity similarity to the input")
    return plotted(figure)


def heat_map(row: Row) -> bytes | None:
    """Return a PNG of the share of edits (rows) that change an attribute unasked (columns); None where no attribute was edited."""
    cells = {name: cell for name, cell in row.cells.items() if cell.group != STYLES}
    seen = dict.fromkeys(name for cell in cells.values() for name, share in cell.flips.items() if share >= SEEN)
    names = sorted(name for name in seen if not name.startswith(STYLE_PREFIX))
    if not cells or not names:
        return None
    figure, axes = new_figure(1.9 + 0.36 * len(names), 1.3 + 0.34 * len(cells))
    shares = [[cell.flips.get(name, 0.0) for name in names] for cell in cells.values()]
    axes.imshow(shares, cmap="BuGn", vmin=0, vmax=0.5, aspect="auto")
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(cells)), [name.replace("_", " ") for name in cells], fontsize=8)
    axes.grid(visible=False)
    for y, line in enumerate(shares):
        for x, share in enumerate(line):
            if share >= SEEN:
                axes.text(x, y, f"{share:.0%}".removesuffix("%"), ha="center", va="center", fontsize=7, color="w" if share > 0.3 else "k")
    return plotted(figure)
