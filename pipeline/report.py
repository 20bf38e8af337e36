"""The report of a run: one self-contained HTML page of before and after, scores and failures, and the overview as a PNG."""

from __future__ import annotations

import json
from collections.abc import Mapping

import jinja2

from pipeline import report_tables, report_view
from pipeline.frechet import FEWEST
from pipeline.report_data import Run, ordered_instructions, read_run
from pipeline.report_facts import read_facts
from pipeline.report_figures import HEIGHT, WIDTH
from pipeline.report_gallery import Gallery
from pipeline.report_pictures import Embedder, draw_sheet, read_members
from pipeline.report_scores import CRITERION, SCORES
from pipeline.storage import Storage
from pipeline.tar_index import printable

PICTURE_BUDGET_BYTES = 6_500_000  # of base64; with the text the page stays below 8 MB
SHEET_PEOPLE = 6


def write_report(out_url: str) -> str:
    """Write OUT/report.html and OUT/sheet.png from what the run left in OUT, and return the URL of the page.

    Equal inputs give equal bytes. Raises FileNotFoundError when OUT holds no run and ValueError when one of its files is damaged.
    """
    storage = Storage(out_url)
    run = read_run(storage)
    gallery = Gallery(run, ordered_instructions(run))
    gallery.load(storage)
    storage.write("sheet.png", draw_sheet(gallery.overview_rows()[:SHEET_PEOPLE], ["source", *gallery.names]))
    storage.write("report.html", render(run, gallery, features=_features(storage, run)).encode())
    return storage.url_of("report.html")


def render(run: Run, gallery: Gallery, *, features: Mapping[str, str]) -> str:
    """Return the page; `features` says what LPIPS and the Frechet distance rest on."""
    instructions = ordered_instructions(run)
    facts = read_facts(run.facts, edits=run.edits)
    embedder = Embedder(PICTURE_BUDGET_BYTES)
    axes = report_view.axes(instructions)
    distances = report_tables.frechet(run, instructions)
    attributes, matrix = report_tables.matrix(facts, instructions)
    shards, more_shards = report_tables.shards(run)
    return _template().render(
        facts=facts,
        features=features,
        only_inversions=report_view.only_inversions(instructions),
        lead=report_view.lead(run, facts, instructions),
        tiles=report_view.tiles(run, facts, instructions),
        overview=report_view.overview(gallery, embedder),
        names=gallery.names,
        sections=[report_view.section(numbers, gallery, embedder, axes) for numbers in instructions],
        summary=report_tables.summary(instructions, distances),
        summary_labels=report_tables.TABLE_LABELS,
        attributes=attributes,
        judged=any(numbers.judged for numbers in instructions),
        matrix=matrix,
        distances=distances,
        fewest=FEWEST,
        failures=report_tables.failures(run, gallery, embedder),
        counts=report_tables.counts(run),
        provenance={name: ", ".join(sorted(seen)) for name, seen in run.provenance.items()},
        shards=shards,
        more_shards=more_shards,
        criterion=next(score.label for score in SCORES if score.column == CRITERION),
        figure=(WIDTH, HEIGHT),
        left_out=embedder.left_out,
    )


def _features(storage: Storage, run: Run) -> Mapping[str, str]:
    """Return what was written beside the scores of a sample: run.json only knows it when the last run edited something."""
    for ref, _ in run.chosen[:1]:
        for _, data in read_members(storage, f"shards/{ref.shard}.tar", {printable(f"{ref.key}.edits.json")}):
            return {name: str(text) for name, text in json.loads(data).get("features", {}).items()}
    return {}


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("pipeline", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2")
