"""The report of an augmentation: one self-contained HTML page of yields, targets and labels, with sheets of the kept and the rejected."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
from PIL import Image

from augmentation.gates import REASONS
from augmentation.report_data import Augmented, EditNumbers, Example, ordered, read_augmented
from augmentation.rows import DRAWN, EDIT, ORIGINAL
from pipeline.report_facts import read_facts
from pipeline.report_figures import counted, format_count, format_percent
from pipeline.report_pictures import Embedder, Pictures, draw_sheet, read_pictures
from pipeline.report_view import Cell, Tile
from pipeline.storage import Storage

PICTURE_BUDGET_BYTES = 6_500_000
SHEET_ROWS, SHEET_COLUMNS = 6, 10
PICTURE = "png"
MOST_LABELS = 18
BEFORE = frozenset({"aligned", "inverted"})
"""What a recipe says of originals whose pictures lie beside their edits, in the same frame."""


MEANT = {
    "certainty": ("Certainty", "least probability of what was asked"),
    "identity": ("Identity", "cosine to the source"),
    "collateral": ("Collateral", "attributes per edit that changed unasked"),
    "realism": ("Realism", "1: as far as 1 % of the generator's own"),
    "clip_directional": ("Directional CLIP", "cosine of image and text change"),
    "lpips": ("LPIPS", "to the source"),
}
"""Measure -> what the page calls it, and what it is."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of a sheet, with the picture before where there is one."""

    key: str
    before: Cell | None
    after: Cell
    note: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """What became of one edit."""

    name: str
    source: str
    target: str
    tried: int
    accepted: int
    percent: float | None
    parts: tuple[tuple[str, int, float], ...]
    """Name, count and percent of the kept and of each reason to reject."""
    numbers: tuple[tuple[str, str, str], ...]
    reliable: bool
    kept: tuple[Shown, ...]
    rejected: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class Label:
    """How common an attribute is before and after."""

    name: str
    before: float | None
    after: float


class Sheets:
    """The pictures that the page shows, read in one pass per tar."""

    def __init__(self, storage: Storage, found: Augmented) -> None:
        self._embedder = Embedder(PICTURE_BUDGET_BYTES)
        self._pairs = _recipe(found).get("originals") in BEFORE
        wanted: dict[str, set[str]] = {}
        for example in (*found.drawn, *(one for edit in found.edits.values() for one in (*edit.kept, *edit.rejected))):
            wanted.setdefault(example.place, set()).add(f"{example.key}.{PICTURE}")
            if self._pairs and example.row["kind"] == EDIT:
                wanted.setdefault(example.source, set()).add(f"{example.row['key']}.{PICTURE}")
        self._pictures: Pictures = read_pictures(storage, wanted)

    @property
    def left_out(self) -> int:
        """Return how many pictures did not fit into the page."""
        return self._embedder.left_out

    def picture(self, example: Example) -> Image.Image | None:
        """Return what was made."""
        return self._pictures.get((example.place, f"{example.key}.{PICTURE}"))

    def shown(self, example: Example) -> Shown:
        """Return a picture with what it was made from."""
        row, before = example.row, None
        if self._pairs and row["kind"] == EDIT:
            picture = self._pictures.get((example.source, f"{row['key']}.{PICTURE}"))
            before = Cell(uri=self._embedder.uri(picture), alt=f"Source {row['key']}")
        after = Cell(uri=self._embedder.uri(self.picture(example)), alt=f"{row['instruction'] or DRAWN} of {row['key']}")
        return Shown(key=str(row["key"]), before=before, after=after, note=_note(row))


def _note(row: Mapping[str, object]) -> str:
    if row["kind"] == DRAWN:
        return ""
    reason = str(row["reason"] or "")
    factor = row["factor"]
    strength = f"\N{MULTIPLICATION SIGN}{factor:.2f}" if isinstance(factor, float) else ""
    return f"{reason} {strength}".strip()


def write_report(storage: Storage) -> str:
    """Write OUT/report.html and OUT/sheet.png; return the URL of the page. Equal inputs give equal bytes."""
    found = read_augmented(storage)
    sheets = Sheets(storage, found)
    edits = ordered(found, [str(edit["name"]) for edit in _edits(found)])
    shown = [edit for edit in edits if edit.kept][:SHEET_COLUMNS]
    rows = [[sheets.picture(edit.kept[i]) if i < len(edit.kept) else None for edit in shown] for i in range(SHEET_ROWS)]
    labels = [edit.name for edit in shown]
    if not shown:
        labels = [DRAWN] * min(SHEET_ROWS, len(found.drawn))
        rows = [[sheets.picture(one) for one in found.drawn[: len(labels)]]]
    storage.write("sheet.png", draw_sheet(rows, labels))
    storage.write("report.html", render(found, edits, sheets).encode())
    return storage.url_of("report.html")


def render(found: Augmented, edits: Sequence[EditNumbers], sheets: Sheets) -> str:
    """Return the page."""
    facts = read_facts(found.facts, edits=0)
    augmentation = _augmentation(found)
    sections = [_section(edit, found, sheets) for edit in edits]
    return _template().render(
        facts=facts,
        lead=_lead(found, sections),
        tiles=_tiles(found, edits, sections),
        sections=sections,
        reasons=REASONS,
        targets=augmentation["targets"],
        labels=_labels(found),
        has_before=bool(found.sources),
        drawn=[sheets.shown(example) for example in found.drawn],
        drawn_count=format_count(found.kinds[DRAWN]),
        failures=[(stage, reason, counted(count, "sample")) for (stage, reason), count in found.failures.most_common()]
        + [("read", damage, f"shard {name}, from here on") for name, damage in found.damaged],
        provenance={name: ", ".join(sorted(seen)) for name, seen in found.provenance.items()},
        recipe=json.dumps(_recipe(found), indent=2, ensure_ascii=False),
        left_out=sheets.left_out,
    )


def _section(edit: EditNumbers, found: Augmented, sheets: Sheets) -> Section:
    one = _yields(found).get(edit.name, {})
    rejected = one.get("rejected", {})
    assert isinstance(rejected, dict)
    tried, accepted = int(str(one.get("tried", 0))), int(str(one.get("accepted", 0)))
    parts = [("kept", accepted), *rejected.items()]
    return Section(
        name=edit.name,
        source=edit.source,
        target=edit.target,
        tried=tried,
        accepted=accepted,
        percent=100 * accepted / tried if tried else None,
        parts=tuple((name, int(count), 100 * int(count) / max(1, tried)) for name, count in parts if count),
        numbers=tuple(_numbers(edit, one)),
        reliable=edit.reliable,
        kept=tuple(sheets.shown(example) for example in edit.kept),
        rejected=tuple(sheets.shown(example) for example in edit.rejected),
    )


def _numbers(edit: EditNumbers, made: Mapping[str, object]) -> list[tuple[str, str, str]]:
    middle = made.get("median_factor")
    found = (
        [("Strength, median", f"\N{MULTIPLICATION SIGN}{middle:.2f}", "multiple of the instruction's own")]
        if isinstance(middle, float)
        else []
    )
    people = sum(edit.same_person.values())
    if people:
        found.append(("Same person", format_percent(100 * edit.same_person[True] / people), "identity network of the pack"))
    for measure, (label, meaning) in MEANT.items():
        mean = edit.mean(measure)
        if mean is not None:
            found.append((label, f"{mean:.2f}", f"{meaning}; mean of the kept"))
    return found


def _lead(found: Augmented, sections: Sequence[Section]) -> str:
    tried, kept = sum(one.tried for one in sections), sum(one.accepted for one in sections)
    parts = [counted(found.kinds[ORIGINAL], "original")] if found.kinds[ORIGINAL] else []
    parts += [f"{counted(kept, 'edit')} kept of {format_count(tried)} tried"] if sections else []
    parts += [counted(found.kinds[DRAWN], "drawn picture")] if found.kinds[DRAWN] else []
    return ", ".join(parts) + "." if parts else "Nothing was made."


def _tiles(found: Augmented, edits: Sequence[EditNumbers], sections: Sequence[Section]) -> list[Tile]:
    tried, kept = sum(one.tried for one in sections), sum(one.accepted for one in sections)
    people = sum(sum(edit.same_person.values()) for edit in edits if edit.reliable)
    same = 100 * sum(edit.same_person[True] for edit in edits if edit.reliable) / people if people else None
    counts = found.facts["counts"]
    assert isinstance(counts, dict)
    written = int(counts.get("originals", 0)) + kept + found.kinds[DRAWN]
    targets = _augmentation(found)["targets"]
    assert isinstance(targets, list)
    missing = sum(int(one["missing"]) for one in targets)
    met = "every target met" if not missing else f"{format_count(missing)} of the targets missing"
    failed = sum(found.failures.values())
    return [
        Tile(value=format_count(written), label="samples in the dataset", note=met if targets else "originals, edits and drawn pictures"),
        Tile(value=format_count(kept), label="edits kept", note=f"of {format_count(tried)} tried"),
        Tile(value=format_percent(100 * kept / tried if tried else None), label="yield", note="share of tries that passed all gates"),
        Tile(value=format_percent(same), label="same person", note="of the kept, by the network that the gate asks; without styles"),
        Tile(value=format_count(found.kinds[DRAWN]), label="drawn pictures", note="of nobody, from known seeds"),
        Tile(
            value=format_count(failed),
            label="samples failed",
            note="in quarantine, with their bytes" if failed else "every sample went through",
        ),
    ]


def _labels(found: Augmented) -> list[Label]:
    """Return how common each attribute is among originals and in the whole dataset, those that changed most first."""
    before, total = found.sources, sum(found.kinds.values())
    if not total:
        return []
    rows = [
        Label(name=name, before=100 * found.before[name] / before if before else None, after=100 * found.labels[name] / total)
        for name in {*found.before, *found.labels}
    ]
    return sorted(rows, key=lambda row: (-abs(row.after - (row.before or 0.0)), row.name))[:MOST_LABELS]


def _augmentation(found: Augmented) -> Mapping[str, object]:
    content = found.facts["augmentation"]
    assert isinstance(content, dict)
    return content


def _yields(found: Augmented) -> Mapping[str, Mapping[str, object]]:
    content = _augmentation(found)["yields"]
    assert isinstance(content, dict)
    return content


def _recipe(found: Augmented) -> Mapping[str, object]:
    content = _augmentation(found)["recipe"]
    assert isinstance(content, dict)
    return content


def _edits(found: Augmented) -> list[Mapping[str, object]]:
    content = _recipe(found)["edits"]
    assert isinstance(content, list)
    return content


def _template() -> jinja2.Template:
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader("augmentation", "templates"), jinja2.PackageLoader("pipeline", "templates")])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("augmentation.html.j2")
