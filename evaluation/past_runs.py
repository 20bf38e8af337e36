"""The runs of a suite that MLflow holds from before, the champion among them, and the samples that it was measured on."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from evaluation import samples
from evaluation.samples import SamplesError, SampleTable
from pipeline.child import ChildError, ask
from pipeline.config import ConfigError, TrackingConfig
from pipeline.tracking import FINISH_TIMEOUT_S, MLFLOW, START_TIMEOUT_S, tracking_uri, warn

SUITE_TAG = "hyperedit.suite"
CHAMPION_TAG = "champion"
REGRESSION_TAG = "regression"
COMPARED_TAG = "compared_with"
AUTO, NONE = "auto", "none"


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """A finished run of the suite."""

    run_id: str
    name: str
    started: datetime
    metrics: Mapping[str, float]
    tags: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.run_id} ({self.name}, {self.started:%Y-%m-%d %H:%M} UTC)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """The runs of a suite in an experiment, oldest first, and the champion with its samples where there is one to compare with."""

    uri: str
    suite: str
    runs: tuple[PastRun, ...] = ()
    champion: PastRun | None = None
    champion_samples: SampleTable = field(default_factory=dict)

    def crown(self, run_id: str) -> None:
        """Make a run the champion in place of the one before. Raises ConfigError where MLflow does not do it."""
        request = {"do": "mark", "uri": self.uri, "run_id": run_id, "mark": CHAMPION_TAG, "tags": {SUITE_TAG: self.suite}}
        _asked(request, timeout_s=FINISH_TIMEOUT_S)


def past_runs(tracking: TrackingConfig, *, suite: str, output: str, champion: str) -> Past:
    """Return what went before. `champion` is auto (the run with that tag, if there is one), none, or the id of a run.

    Raises ConfigError where the champion is asked for and MLflow does not answer, has no such run, or not its samples; without a
    champion, a silent MLflow is only warned of.
    """
    uri = tracking_uri(tracking, output)
    request = {"do": "history", "uri": uri, "experiment": tracking.experiment, "tags": {SUITE_TAG: suite}, "mark": CHAMPION_TAG}
    try:
        answer = _asked(request, timeout_s=START_TIMEOUT_S)
    except ConfigError as error:
        if champion != NONE:
            raise ConfigError(f"--champion {champion}: {error}") from None
        warn(uri, error, consequence="The page shows no earlier runs.")
        return Past(uri=uri, suite=suite)
    runs = tuple(_run(one) for one in _list(answer["runs"]))
    chosen = _chosen(runs, _run(answer["marked"]) if answer["marked"] else None, champion, where=f"{uri}, experiment {tracking.experiment}")
    table = _samples(uri, chosen) if chosen is not None else {}
    return Past(uri=uri, suite=suite, runs=runs, champion=chosen, champion_samples=table)


def _chosen(runs: tuple[PastRun, ...], marked: PastRun | None, champion: str, *, where: str) -> PastRun | None:
    if champion == NONE:
        return None
    if champion == AUTO:
        return marked
    found = [run for run in runs if run.run_id == champion]
    if not found:
        latest = ", ".join(run.run_id for run in runs[-5:]) or "none"
        raise ConfigError(f"--champion {champion}: no finished run of this suite with that id at {where}; the latest: {latest}")
    return found[0]


def _samples(uri: str, run: PastRun) -> SampleTable:
    with tempfile.TemporaryDirectory() as folder:
        try:
            request = {"do": "fetch", "uri": uri, "run_id": run.run_id, "file": samples.FILE, "folder": folder}
            return samples.read(Path(str(_asked(request, timeout_s=FINISH_TIMEOUT_S)["path"])))
        except (ConfigError, SamplesError) as error:
            raise ConfigError(
                f"champion {run}: its artifact {samples.FILE} cannot be read, so nothing can be compared with it ({error}); name another "
                "run with --champion RUN_ID, or measure a new champion with --champion none --promote"
            ) from None


def _asked(request: Mapping[str, object], *, timeout_s: float) -> dict[str, object]:
    try:
        return ask(MLFLOW, request, timeout_s=timeout_s)
    except ChildError as error:
        raise ConfigError(f"MLflow at {request['uri']} did not answer as expected: {error}") from None


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _run(one: object) -> PastRun:
    assert isinstance(one, dict)
    started = datetime.fromtimestamp(one["start_ms"] / 1000, UTC)
    return PastRun(run_id=one["run_id"], name=one["name"], started=started, metrics=one["metrics"], tags=one["tags"])
