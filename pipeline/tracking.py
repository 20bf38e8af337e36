"""Record a job as an MLflow run: parameters, metrics, report. MLflow is a witness: its failure is said loudly and never ends a job.

MLflow lives in a process of its own (`pipeline/mlflow_process.py`): it takes seconds to import, may hang on a server that does not
answer, and closes the run as killed when the driver goes without a word.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.child import Child, ChildError, take
from pipeline.config import TrackingConfig

START_TIMEOUT_S = 120.0
FINISH_TIMEOUT_S = 180.0
SQLITE = "sqlite:///"
MLFLOW = "pipeline.mlflow_process"


class TrackingError(RuntimeError):
    """MLflow did not do what it was asked to."""


def tracking_uri(config: TrackingConfig, home: str) -> str:
    """Return where the run goes: the configured URI, MLFLOW_TRACKING_URI, or a SQLite file beside a local output (else in this folder)."""
    given = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given:  # a relative path would be another file for every process
        return SQLITE + os.path.abspath(given.removeprefix(SQLITE)) if given.startswith(SQLITE) else given
    return f"{SQLITE}{(_local_parent(home) or Path.cwd()) / 'mlruns.db'}"


def warn(uri: str, problem: object, *, consequence: str) -> None:
    """Say on standard error what MLflow did not do."""
    print(f"WARNING: MLflow at {uri}: {problem}\n         {consequence}", file=sys.stderr, flush=True)


class Tracker:
    """Start a run while the job starts, finish it when the job is done."""

    def __init__(self, config: TrackingConfig, *, output: str, home: str) -> None:
        self.uri = tracking_uri(config, home)
        self._config, self._output = config, output
        self._child: Child | None = None

    def start(self, params: Mapping[str, object]) -> None:
        """Create the run with its parameters, in the background; runs of this output that a dead job left open are closed as killed."""
        if not self._config.enabled:
            return
        self._child = take(MLFLOW)
        run = {"do": "edit", "uri": self.uri, "experiment": self._config.experiment, "output": self._output}
        self._child.send({**run, "params": {name: str(value) for name, value in params.items()}})

    def finish(self, metrics: Mapping[str, float], *, artifacts: Sequence[str] = (), status: str = "FINISHED") -> str | None:
        """Log metrics and files (paths or URLs), end the run as FINISHED, FAILED or KILLED and return its id; None where MLflow failed."""
        if self._child is None:
            return None
        try:
            run_id = str(self._child.answer(START_TIMEOUT_S)["run_id"])
            self._child.send({"metrics": dict(metrics), "artifacts": list(artifacts), "status": status})
            self._child.answer(FINISH_TIMEOUT_S)
            return run_id
        except ChildError as error:
            warn(self.uri, error, consequence="The output is not affected; only this record is missing or partial.")
            return None
        finally:
            self._child.close()
            self._child = None


def _local_parent(output: str) -> Path | None:
    if "://" in output and not output.startswith("file://"):
        return None
    return Path(output.removeprefix("file://")).resolve().parent
