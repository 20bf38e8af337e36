"""The pictures and key figures of the page as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from pipeline.report_data import InstructionNumbers, Row, Run, SampleRef, damaged_shards
from pipeline.report_facts import Facts
from pipeline.report_figures import (
    Axis,
    Histogram,
    common_axis,
    counted,
    format_count,
    format_percent,
    format_score,
    histogram,
    mean_and_deviation,
)
from pipeline.report_gallery import Gallery
from pipeline.report_pictures import Embedder
from pipeline.report_scores import SCORES, Distribution, Share

HISTOGRAMS = ("clip_directional", "identity", "lpips")
BY_COLUMN = {score.column: score for score in SCORES}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture of the page; `uri` is None where there is none."""

    uri: str | None
    alt: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One source and its edit."""

    key: str
    before: Cell
    after: Cell
    scores: str
    verdict: str  # "hit", "miss" or "" where nobody can tell


@dataclass(frozen=True, kw_only=True)
class Section:
    """All about one instruction."""

    name: str
    source: str
    target: str
    strength: str
    count: str
    reliable: bool
    numbers: tuple[tuple[str, str, str], ...]  # label, value, meaning
    histograms: tuple[Histogram, ...]
    criterion: str
    pairs: tuple[Pair, ...]
    best: tuple[Pair, ...]
    worst: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One key figure."""

    value: str
    label: str
    note: str


def axes(instructions: Sequence[InstructionNumbers]) -> dict[str, Axis]:
    """Return the axis of each histogram, shared by all instructions so that they can be compared by eye."""
    return {column: common_axis([numbers.distributions[column] for numbers in instructions]) for column in HISTOGRAMS}


def lead(run: Run, facts: Facts, instructions: Sequence[InstructionNumbers]) -> str:
    """Return the run in one sentence."""
    people = counted(run.samples - run.failed_samples, _subject(facts))
    text = f"{counted(run.edits, 'edit')} of {people} by {counted(len(instructions), 'instruction')}"
    if only_inversions(instructions):
        text = f"{people} aligned and inverted, none edited"
    return f"{text}, in {facts.duration}." if facts.duration != "\N{EN DASH}" else f"{text}."


def _subject(facts: Facts) -> str:
    return "portrait" if facts.faces else "picture"


def only_inversions(instructions: Sequence[InstructionNumbers]) -> bool:
    """Say whether nothing was edited: the run had no instructions."""
    return bool(instructions) and all(numbers.is_inversion for numbers in instructions)


def inversion_tiles(run: Run, facts: Facts, numbers: InstructionNumbers) -> list[Tile]:
    """Return the key figures of a run without instructions."""
    scores = {column: mean_and_deviation(numbers.distributions[column]).split(" ")[0] for column in ("psnr", "lpips", "identity")}
    return [
        Tile(value=format_count(run.edits), label="inversions written", note=f"one per {_subject(facts)}"),
        Tile(value=format_percent(numbers.same_person.percent), label="still the same person", note="identity network"),
        Tile(value=scores["psnr"], label="PSNR in dB", note="mean, aligned input to inversion"),
        Tile(value=scores["lpips"], label="LPIPS", note="mean, aligned input to inversion"),
        Tile(value=facts.throughput, label="inversions per second", note=facts.throughput_note),
        Tile(value=format_count(run.failed_samples), label="samples failed", note=_failed_note(run)),
    ]


def tiles(run: Run, facts: Facts, instructions: Sequence[InstructionNumbers]) -> list[Tile]:
    """Return the key figures."""
    if only_inversions(instructions):
        return inversion_tiles(run, facts, instructions[0])
    success, person = Share(), Share()
    for numbers in instructions:
        success.merge(numbers.success)
        if numbers.reliable:
            person.merge(numbers.same_person)
    direction = Distribution(score=BY_COLUMN["clip_directional"])
    for numbers in instructions:
        direction.merge(numbers.distributions["clip_directional"])
    people, names = counted(run.samples - run.failed_samples, _subject(facts)), counted(len(instructions), "instruction")
    return [
        Tile(value=format_count(run.edits), label="edits written", note=f"of {people} by {names}"),
        Tile(value=format_percent(success.percent), label="show what was asked", note="attribute classifier, mean over all edits"),
        Tile(value=format_percent(person.percent), label="still the same person", note="identity network, without style edits"),
        Tile(value=mean_and_deviation(direction).split(" ")[0], label="directional CLIP", note="mean cosine of image and text change"),
        Tile(value=facts.throughput, label="edits per second", note=facts.throughput_note),
        Tile(value=format_count(run.failed_samples), label="samples failed", note=_failed_note(run)),
    ]


def overview(gallery: Gallery, embedder: Embedder) -> list[tuple[str, list[Cell]]]:
    """Return one row per person: key, then the source and every edit."""
    rows = []
    for ref, _ in gallery.overview:
        cells = [cell(gallery.source(ref), f"Source {ref.key}", embedder)]
        cells += [cell(gallery.edit(ref, name), f"{name} of {ref.key}", embedder) for name in gallery.names]
        rows.append((ref.key, cells))
    return rows


def section(numbers: InstructionNumbers, gallery: Gallery, embedder: Embedder, shared: Mapping[str, Axis]) -> Section:
    """Return the section of one instruction."""
    sheet = [(ref, rows[numbers.name]) for ref, rows in gallery.people if numbers.name in rows]
    return Section(
        name=numbers.name,
        source=numbers.source,
        target=numbers.target,
        strength=f"{numbers.strength:g}",
        count=format_count(numbers.count),
        reliable=numbers.reliable,
        numbers=tuple(_numbers(numbers)),
        histograms=tuple(histogram(numbers.distributions[name], shared[name]) for name in HISTOGRAMS if numbers.distributions[name].count),
        criterion=BY_COLUMN[numbers.criterion].label,
        pairs=tuple(_pair(ref, row, numbers, gallery, embedder) for ref, row in sheet),
        best=tuple(_pair(ref, row, numbers, gallery, embedder) for _, ref, row in numbers.best[: gallery.ends]),
        worst=tuple(_pair(ref, row, numbers, gallery, embedder) for _, ref, row in numbers.worst[: gallery.ends]),
    )


def _numbers(numbers: InstructionNumbers) -> list[tuple[str, str, str]]:
    per_edit = numbers.collateral_per_edit
    success = ("Success", format_percent(numbers.success.percent), "edits in which every expected attribute is there")
    person = ("Same person", format_percent(numbers.same_person.percent), "identity above the threshold that 1 % of strangers pass")
    found = [person] if numbers.is_inversion else [success, person]
    if per_edit is not None:
        found.append(("Collateral", f"{per_edit:.2f}", "attributes per edit that changed unasked"))
    for score in SCORES:
        distribution = numbers.distributions[score.column]
        if distribution.count:
            unit = f" {score.unit}" if score.unit else ""
            found.append((score.label, mean_and_deviation(distribution) + unit, f"{score.meaning}; {score.better} is better"))
    return found


def _pair(ref: SampleRef, row: Row, numbers: InstructionNumbers, gallery: Gallery, embedder: Embedder) -> Pair:
    success, instruction = row.get("success"), numbers.name
    shown = (("psnr", "psnr"), ("id", "identity")) if numbers.is_inversion else (("dir", "clip_directional"), ("id", "identity"))
    return Pair(
        key=ref.key,
        before=cell(gallery.source(ref), f"Source {ref.key}", embedder),
        after=cell(gallery.edit(ref, instruction), f"{instruction} of {ref.key}", embedder),
        scores=" ".join(f"{short} {_score(row, column)}" for short, column in shown),
        verdict="" if success is None else ("hit" if success else "miss"),
    )


def _score(row: Row, column: str) -> str:
    value = row.get(column)
    return format_score(float(value), BY_COLUMN[column]) if isinstance(value, (int, float)) else "\N{EN DASH}"


def cell(picture: Image.Image | None, alt: str, embedder: Embedder) -> Cell:
    """Embed a picture."""
    return Cell(uri=embedder.uri(picture), alt=alt)


def _failed_note(run: Run) -> str:
    damaged = len(damaged_shards(run))
    if damaged:
        return f"and {counted(damaged, 'shard')} not read to the end"
    if not run.failed_samples:
        return "every sample went through"
    return f"of {format_count(run.samples)}, for {counted(len(run.reasons), 'reason')}"
