"""A suite's run in MLflow: opened before anything is measured, ended with the figures and the page, however the suite ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evaluation.past_runs import SUITE_TAG
from pipeline.config import TrackingConfig
from pipeline.training_run import Run, end_run, open_run

Figures = dict[str, object]
EXPERIMENT = "evaluate"
PER_INSTRUCTION = ("success", "style_zero_shot", "ids", "cs", "fid")


def tracked(
    measure: Callable[[], tuple[Figures, list[Path]]], *, uri: str | None, folder: Path, name: str, params: Mapping[str, object],
    metrics: Callable[[Figures], dict[str, float]], suite: str, experiment: str = EXPERIMENT,
    tags: Callable[[Figures], Mapping[str, str]] = lambda figures: {}, then: Callable[[Run, Figures], None] = lambda run, figures: None,
) -> tuple[Figures, list[Path]]:  # fmt: skip
    """Measure within a run of MLflow and return the figures and files, which the run keeps, too.

    `tags` are those of the ended run, `then` is called when it has ended.
    """
    tracking = TrackingConfig(uri=uri, experiment=experiment)
    run = open_run(tracking, output=str(folder.resolve()), name=name, params=params, tags={SUITE_TAG: suite})
    try:
        figures, files = measure()
    except BaseException as error:
        end_run(run, status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", metrics={}, artifacts=[])
        raise
    kept = [str(path.resolve()) for path in files]
    end_run(run, status="FINISHED", metrics=metrics(figures), artifacts=kept, tags=tags(figures))
    then(run, figures)
    return figures, files


def metrics_of(figures: Mapping[str, object], *, table: str, parts: Sequence[str] = ()) -> dict[str, float]:
    """Return figures as metrics: those of the part `table` by METHOD/MEASURE, those of other parts below the part's name."""
    found: dict[str, float] = {}

    def add(name: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, one in value.items():
                add(f"{name}/{key}" if name else str(key), one)
        elif isinstance(value, int | float):
            found[re.sub(r"[^\w/. -]", "_", name)] = float(value)

    for part in parts:
        add(part, figures[part])
    add("", figures[table])
    return found


def inversion_metrics(figures: Figures) -> dict[str, float]:
    """Return the metrics of suite inversion."""
    return metrics_of(figures, table="table", parts=("drift", "equal_change", "ablations", "adapted"))


def editing_metrics(figures: Figures) -> dict[str, float]:
    """Return the metrics of suite editing: each row's means by METHOD/KIND/MEASURE, and what it reached with every instruction."""
    methods = figures["methods"]
    assert isinstance(methods, Mapping)
    table: dict[str, dict[str, object]] = {}
    for label, row in methods.items():
        table[label] = {name: row[name] for name in ("parameters", "training_s", "inversion_s") if row[name] is not None}
        for kind in ("attributes", "styles", "pairs"):
            table[label][kind] = {name: value for name, value in row[kind].items() if not name.endswith("_se")}
        for name, cell in row["cells"].items():
            table[label][name] = {each: cell["numbers"][each] for each in PER_INSTRUCTION if each in cell["numbers"]}
    return metrics_of({"methods": table}, table="methods")
