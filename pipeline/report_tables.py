"""The tables of the page as plain values for the template: all instructions, collateral changes, distances, failures, how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.frechet import FEWEST, distance
from pipeline.ledger import Record
from pipeline.report_data import InstructionNumbers, Run, damaged_shards
from pipeline.report_facts import Facts
from pipeline.report_figures import counted, format_count, mean_and_deviation
from pipeline.report_gallery import Gallery
from pipeline.report_pictures import Embedder
from pipeline.report_scores import SCORES
from pipeline.report_view import Cell, cell

TABLE_SCORES = ("clip_directional", "clip_score", "identity", "lpips", "ssim", "psnr")
TABLE_LABELS = tuple(score.label for column in TABLE_SCORES for score in SCORES if score.column == column)
MAX_LISTED_SHARDS = 40
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """One instruction of the collateral matrix; `cells` are (percent, shade 0..1, asked for)."""

    name: str
    cells: tuple[tuple[str, float, bool], ...]
    per_edit: str
    reliable: bool


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One instruction of the table of all instructions."""

    name: str
    count: str
    success: float | None
    same_person: float | None
    scores: tuple[str, ...]
    collateral: str
    frechet: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One reason for which samples failed."""

    stage: str
    reason: str
    count: str
    examples: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One line of the list of shards."""

    name: str
    state: str
    sha256: str


def summary(instructions: Sequence[InstructionNumbers], distances: Sequence[tuple[str, str, str]]) -> list[SummaryRow]:
    """Return the table of all instructions; `distances` comes from `frechet`."""
    far = {name: value for name, value, _ in distances}
    return [
        SummaryRow(
            name=numbers.name,
            count=format_count(numbers.count),
            success=numbers.success.percent,
            same_person=numbers.same_person.percent,
            scores=tuple(mean_and_deviation(numbers.distributions[column]) for column in TABLE_SCORES),
            collateral=_per_edit(numbers),
            frechet=far.get(numbers.name, NOTHING),
        )
        for numbers in instructions
    ]


def frechet(run: Run, instructions: Sequence[InstructionNumbers]) -> list[tuple[str, str, str]]:
    """Return name, distance to the source pictures (none of fewer than FEWEST), and number of edits, per instruction."""
    if run.moments is None:
        return []
    rows = []
    for numbers in instructions:
        moments = run.moments.edits.get(numbers.name)
        value = None
        if moments is not None and min(moments.count, run.moments.source.count) >= FEWEST:
            value = distance(run.moments.source, moments)
        shown = NOTHING if value is None else f"{value:.3g}"
        rows.append((numbers.name, shown, format_count(0 if moments is None else moments.count)))
    return rows


def matrix(facts: Facts, instructions: Sequence[InstructionNumbers]) -> tuple[list[str], list[MatrixRow]]:
    """Return the attributes that flipped anywhere, most frequent first, and per instruction how often each did."""
    totals: dict[str, float] = {}
    for numbers in instructions:
        for name, count in numbers.flips.items():
            totals[name] = totals.get(name, 0.0) + count / max(1, numbers.count)
    columns = sorted(totals, key=lambda name: (-totals[name], name))
    rows = []
    for numbers in instructions:
        share = [numbers.flips[name] / max(1, numbers.count) for name in columns]
        wanted = facts.expects.get(numbers.name, ())
        rows.append(
            MatrixRow(
                name=numbers.name,
                cells=tuple((_percent(part), round(part**0.6, 3), name in wanted) for part, name in zip(share, columns, strict=True)),
                per_edit=_per_edit(numbers),
                reliable=numbers.reliable,
            )
        )
    return columns, rows


def _per_edit(numbers: InstructionNumbers) -> str:
    value = numbers.collateral_per_edit
    return NOTHING if value is None else f"{value:.2f}"


def _percent(part: float) -> str:
    if part == 0:
        return ""
    return "<1" if part < 0.01 else f"{100 * part:.0f}"


def failures(run: Run, gallery: Gallery, embedder: Embedder) -> list[Failure]:
    """Return the reasons for which samples failed, most frequent first, then the shards that could not be read at all."""
    found = [
        Failure(
            stage=reason.stage,
            reason=reason.reason,
            count=counted(reason.count, "sample"),
            examples=tuple(
                (f"{ref.shard} / {ref.key}", cell(gallery.original(ref), f"Original of {ref.key}", embedder)) for ref in reason.examples
            ),
        )
        for reason in sorted(run.reasons.values(), key=lambda reason: (-reason.count, reason.stage, reason.reason))
    ]
    for name, damage in damaged_shards(run):
        found.append(Failure(stage="read", reason=damage, count="the shard, from here on", examples=((name, Cell(uri=None, alt="")),)))
    return found


def shards(run: Run) -> tuple[list[Shard], int]:
    """Return the first shards with what the ledger says of them, and how many more there are."""
    listed = [
        Shard(name=name, state=_statuses(record), sha256=record.identity.input_sha256)
        for name, record in list(run.ledger.items())[:MAX_LISTED_SHARDS]
    ]
    return listed, max(0, len(run.ledger) - MAX_LISTED_SHARDS)


def _statuses(record: Record) -> str:
    return ", ".join(f"{format_count(count)} {status}" for status, count in sorted(record.statuses.items())) or NOTHING


def counts(run: Run) -> list[tuple[str, str]]:
    """Return what came in and what became of it."""
    return [
        ("samples read", format_count(run.samples)),
        ("samples edited", format_count(run.samples - run.failed_samples)),
        ("samples in quarantine", format_count(run.failed_samples)),
        ("shards committed", format_count(len(run.ledger))),
        ("shards damaged", format_count(len(damaged_shards(run)))),
    ]
