"""What the papers claim about editors, held against the rows that were measured: each claim with whether it holds and the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evaluation.editing_suite import INDEPENDENT, Numbers, Row, means

DONE = 0.6
"""The success from which a method's care for the rest counts: one that does nothing keeps everything."""
MOVES_WEIGHTS = ("hypereditor", "nada")
STYLE_HIGH, STYLE_LOW = 0.8, 0.4
FEWER = 0.75
SUCCESS, AMA_SINGLE, AMA_SEVERAL, FIRST_TWO = 0.9, 0.85, 0.6, 4
AS_GOOD = 0.05
"""How much lower a success may be and still be called equal."""
PAPER_COLUMNS: Mapping[str, tuple[str, bool]] = {
    "psnr_db": ("PSNR", True), "lpips": ("LPIPS", False), "ssim": ("SSIM", True), "ids": ("IDS", True), "fid": ("FID", False),
}  # fmt: skip
"""Column -> heading, and whether more is better."""
LESS_IS_BETTER = frozenset({"lpips", "fid", "collateral", "seconds"})
Rows = Mapping[str, Row]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A claim, where it is from, whether the rows bear it out, and the numbers that say so."""

    claim: str
    source: str
    holds: bool
    numbers: str
    reason: str = ""
    """Why it does not, as far as whoever wrote the plan knows."""


def checks(rows: Rows) -> list[Check]:
    """Return every claim that these rows can speak to."""
    parts = (
        _succeeds, _closest_to_text, _keeps_rest, _on_one_inverter, _styles, _person_in_styles, _hyperstyle, _clipinverter, _ablations,
        _rewordings, _sweep, _selections,
    )  # fmt: skip
    return [check for part in parts for check in part(rows)]


def explained(found: Sequence[Check], reasons: Mapping[str, str]) -> list[Check]:
    """Return claims with the reason of those that do not hold and have words of theirs among `reasons`."""
    return [
        replace(check, reason=next((text for words, text in reasons.items() if words in check.claim), "")) if not check.holds else check
        for check in found
    ]


def compared(rows: Rows) -> dict[str, Row]:
    """Return the rows of the main table: no ablations, no sweep, and all of the attribute instructions that the fullest row has."""
    full = max((_attribute_names(row) for row in rows.values()), key=len, default=frozenset())
    whole = {label: row for label, row in rows.items() if full and _attribute_names(row) == full}
    return {label: row for label, row in whole.items() if row.ablates is None and row.sweep is None}


def ranks(figures: Mapping[str, float], *, more: bool) -> dict[str, int]:
    """Return the rank of each label, equals sharing the better one."""
    return {label: 1 + sum((other > value) if more else (other < value) for other in figures.values()) for label, value in figures.items()}


def _attribute_names(row: Row) -> frozenset[str]:
    return frozenset(name for name, cell in row.cells.items() if cell.group == "attributes")


def _alike(rows: Rows) -> dict[str, Row]:
    """Return the rows on as many portraits as HyperEditor's: a Frechet distance of fewer is higher for that alone."""
    count = max(_portraits(row) for row in rows.values() if _is_ours(row))
    return {label: row for label, row in rows.items() if _portraits(row) == count}


def _portraits(row: Row) -> int:
    return sum(cell.portraits for cell in row.cells.values() if cell.group == "attributes")


def _is_ours(row: Row) -> bool:
    return row.kind == "hypereditor"


def _figures(rows: Rows, column: str) -> dict[str, float]:
    return {label: row.attributes[column] for label, row in rows.items() if column in row.attributes}


def _told(figures: Mapping[str, float], *, more: bool = True, form: str = ".3f") -> str:
    return ", ".join(f"{label} {value:{form}}" for label, value in sorted(figures.items(), key=lambda one: one[1], reverse=more))


def _mixed(rows: Rows) -> bool:
    return len({_is_ours(row) for row in rows.values()}) == 2


def _succeeds(rows: Rows) -> Iterator[Check]:
    table = compared(rows)
    for wanted, what, floor in ((_is_ours, "success", SUCCESS), (_is_clipinverter, "ama", AMA_SINGLE)):
        label = _first(table, lambda row, wanted=wanted: wanted(row) and row.inverter == "e4e")  # type: ignore[misc]
        if label is not None and what in table[label].attributes:
            value = table[label].attributes[what]
            claim = f"{label} reaches {floor:.0%} {'AMA' if what == 'ama' else what} over attributes"
            yield Check(claim=claim, source="what is asked of it here", holds=value >= floor, numbers=f"{value:.1%}")
            if wanted is _is_clipinverter and "ama" in table[label].pairs:
                value = table[label].pairs["ama"]
                claim = f"{label} reaches {AMA_SEVERAL:.0%} AMA over several attributes at once"
                yield Check(claim=claim, source="what is asked of it here", holds=value >= AMA_SEVERAL, numbers=f"{value:.1%}")


def _is_clipinverter(row: Row) -> bool:
    return row.editor == "clipinverter"


def _on_one_inverter(rows: Rows) -> Iterator[Check]:
    """Rank HyperEditor among the methods on the same inversions: another inverter's would lend it, or take, what is not its own."""
    able = {label: row for label, row in compared(rows).items() if row.attributes.get("success", 0.0) >= DONE}
    for inverter in dict.fromkeys(row.inverter for row in able.values() if _is_ours(row)):
        same = {label: row for label, row in able.items() if row.inverter == inverter}
        if not _mixed(same):
            continue
        places = {}
        for column, (heading, more) in PAPER_COLUMNS.items():
            rivals = _alike(same) if column == "fid" else same
            figures = _figures(rivals, column)
            if figures and _mixed(rivals):
                place = ranks(figures, more=more)
                places[heading] = (min(place[label] for label in figures if _is_ours(same[label])), len(figures))
        yield Check(
            claim=f"On the inversions of {inverter} alone, HyperEditor is first or second in {FIRST_TWO} of the five",
            source="HyperEditor Table 1", holds=sum(place <= 2 for place, _ in places.values()) >= FIRST_TWO,
            numbers=", ".join(f"{heading} {place} of {of}" for heading, (place, of) in places.items()),
        )  # fmt: skip


def _person_in_styles(rows: Rows) -> Iterator[Check]:
    nada = _first(rows, lambda row: row.kind == "nada" and bool(row.styles))
    for label, row in rows.items():
        if nada is not None and _is_ours(row) and row.ablates is None and row.sweep is None and row.styles:
            a, b = row.styles["same_person"], rows[nada].styles["same_person"]
            claim = f"{label} leaves a styled person the same more often than {nada}"
            yield Check(claim=claim, source="HyperEditor Figure 11", holds=a > b, numbers=f"{a:.1%} against {b:.1%}")


def _closest_to_text(rows: Rows) -> Iterator[Check]:
    table = compared(rows)
    for column, whose in (("cs", ""), (f"{INDEPENDENT}cs", ", by a CLIP that no editor was trained with")):
        figures = _figures(table, column)
        if _mixed(table) and figures:
            best = max(figures, key=figures.__getitem__)
            yield Check(
                claim=f"HyperEditor has the highest CLIP score of all{whose}", source="HyperEditor Table 1", holds=_is_ours(table[best]),
                numbers=_told(figures, form=".2f"),
            )  # fmt: skip


def _keeps_rest(rows: Rows) -> Iterator[Check]:
    able = {label: row for label, row in compared(rows).items() if row.attributes.get("success", 0.0) >= DONE}
    if not _mixed(able):
        return
    for column, (heading, more) in PAPER_COLUMNS.items():
        rivals = _alike(able) if column == "fid" else able
        figures = _figures(rivals, column)
        if figures and _mixed(rivals):
            place = ranks(figures, more=more)
            ours = min(place[label] for label in figures if _is_ours(able[label]))
            yield Check(
                claim=f"Among methods that succeed in {DONE:.0%} of edits or more, HyperEditor has the best {heading}",
                source="HyperEditor Table 1", holds=ours == 1,
                numbers=f"rank {ours} of {len(figures)}: {_told(figures, more=more)}",
            )  # fmt: skip


def _styles(rows: Rows) -> Iterator[Check]:
    for label, row in rows.items():
        column = next((name for name in (f"{INDEPENDENT}style_zero_shot", "style_zero_shot") if name in row.styles), None)
        if row.ablates is None and row.sweep is None and column is not None:
            reached = row.styles[column]
            high = row.kind in MOVES_WEIGHTS
            claim = f"reaches a style that the generator never saw in {STYLE_HIGH:.0%} of pictures or more" if high else (
                f"only moves latents, so it reaches such a style in less than {STYLE_LOW:.0%}"
            )  # fmt: skip
            holds = reached >= STYLE_HIGH if high else reached < STYLE_LOW
            told = f"{reached:.1%} by CLIP, zero-shot; {row.styles['success']:.1%} by the classifier"
            if column != "style_zero_shot":
                told = f"by a CLIP that no editor was trained with {told}; {row.styles['style_zero_shot']:.1%} by the pack's own CLIP"
            yield Check(claim=f"{label}: {claim}", source="HyperEditor Figure 11", holds=holds, numbers=told)


def _first(rows: Rows, wanted: Callable[[Row], bool]) -> str | None:
    return next((label for label, row in rows.items() if row.ablates is None and row.sweep is None and wanted(row)), None)


def _hyperstyle(rows: Rows) -> Iterator[Check]:
    table = compared(rows)
    with_it = _first(table, lambda row: _is_ours(row) and row.inverter == "hyperstyle")
    plain = _first(table, lambda row: _is_ours(row) and row.inverter == "e4e")
    other = _first(table, lambda row: row.editor.startswith("styleclip") and row.inverter == "hyperstyle")
    for label in (plain, other):
        if with_it is not None and label is not None:
            a, b = table[with_it].attributes, table[label].attributes
            yield Check(
                claim=f"{with_it} keeps the person more often than {label}, at a success that is at most {AS_GOOD:.0%} lower",
                source="HyperStyle with HyperEditor",
                holds=a["same_person"] > b["same_person"] and a["success"] >= b["success"] - AS_GOOD,
                numbers=f"same person {a['same_person']:.1%} against {b['same_person']:.1%}, success {a['success']:.1%} against "
                f"{b['success']:.1%}, IDS {a['ids']:.3f} against {b['ids']:.3f}, on {_portraits(table[with_it])} and "
                f"{_portraits(table[label])} edits",
            )  # fmt: skip


def _clipinverter(rows: Rows) -> Iterator[Check]:
    table = compared(rows)
    if not any(row.editor == "clipinverter" for row in table.values()):
        return
    for part, heading in (("attributes", "one attribute"), ("pairs", "several attributes")):
        rivals = {label: getattr(row, part) for label, row in table.items() if row.kind not in MOVES_WEIGHTS}
        figures = {label: numbers["ama"] for label, numbers in rivals.items() if "ama" in numbers}
        if len(figures) > 1:
            best = max(figures, key=figures.__getitem__)
            yield Check(
                claim=f"CLIPInverter has the highest AMA for {heading} of the methods that it was compared with",
                source="CLIPInverter Table 1", holds=table[best].editor == "clipinverter", numbers=_told(figures),
            )  # fmt: skip


def _beside(rows: Rows) -> Iterator[tuple[str, Row, Row]]:
    """Yield every row that stands beside another one, with its label and that other."""
    for label, row in rows.items():
        whole = rows.get(row.ablates) if row.ablates is not None else None
        if whole is not None:
            yield label, row, whole


def _ablations(rows: Rows) -> Iterator[Check]:
    for label, row, whole in _beside(rows):
        if row.reworded or row.sweep is not None or not row.worse_on:
            continue
        column, better = row.worse_on, row.worse_on not in LESS_IS_BETTER
        a, b = _shared(row, whole).get(column), _shared(whole, row).get(column)
        if a is not None and b is not None:
            yield Check(
                claim=f"{label} is worse on {column.upper()} than {row.ablates}",
                source="CLIPInverter Table 4" if _is_clipinverter(row) else "HyperEditor Table 1",
                holds=a < b if better else a > b, numbers=f"{a:.3f} against {b:.3f}",
            )  # fmt: skip


def _shared(row: Row, other: Row) -> Numbers:
    """Return the means of a row over what both rows were asked: attributes and pairs."""
    return means([cell for name, cell in row.cells.items() if name in other.cells and cell.group != "styles"])


def _sweep(rows: Rows) -> Iterator[Check]:
    swept = sorted((row.sweep, label) for label, row in rows.items() if row.sweep is not None)
    sizes = [(label, rows[label].heads or rows[label].parameters or 0) for _, label in swept]
    if len(sizes) > 1:
        counts = [size for _, size in sizes]
        falling = counts == sorted(counts, reverse=True) and counts[0] > counts[-1]  # neighbours may choose the same layers
        told = ", ".join(f"{label} {size / 1e6:.2f} M" for label, size in sizes)
        yield Check(claim="A higher lambda_std leaves fewer parameters", source="HyperEditor Table 3", holds=falling, numbers=told)


def _rewordings(rows: Rows) -> Iterator[Check]:
    for label, row, whole in _beside(rows):
        if row.reworded:
            a, b = _shared(row, whole)["success"], _shared(whole, row)["success"]
            yield Check(
                claim=f"{label} succeeds as often as {row.ablates}, within {AS_GOOD:.0%}", source="one model for many wordings",
                holds=a >= b - AS_GOOD, numbers=f"{a:.1%} against {b:.1%}",
            )  # fmt: skip


def _selections(rows: Rows) -> Iterator[Check]:
    """Hold networks whose layers were selected against those that have all layers."""
    for label, row, whole in _beside(rows):
        if row.sweep is None or not whole.heads or not row.heads:
            continue
        fewer, a, b = 1 - row.heads / whole.heads, _shared(row, whole)["success"], _shared(whole, row)["success"]
        yield Check(
            claim=f"{label} has {FEWER:.0%} fewer parameters than {row.ablates} or more, and succeeds as often within {AS_GOOD:.0%}",
            source="HyperEditor Table 1, its adaptive layer selector", holds=fewer >= FEWER and a >= b - AS_GOOD,
            numbers=f"{fewer:.1%} fewer ({row.heads / 1e6:.2f} M in its heads against {whole.heads / 1e6:.2f} M); "
            f"success {a:.1%} against {b:.1%}",
        )  # fmt: skip
