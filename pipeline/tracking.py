"""Record a job as an MLflow run: parameters, metrics, report. MLflow is a witness: its failure is said loudly and never ends a job."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import fsspec

from pipeline.config import TrackingConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

OUTPUT_TAG = "hyperedit.output"
PARAM_LIMIT = 6000  # MLflow refuses longer values
T = TypeVar("T")


def tracking_uri(config: TrackingConfig, home: str) -> str:
    """Return where the run goes: the configured URI, MLFLOW_TRACKING_URI, or a SQLite file beside a local output (else in this folder)."""
    given = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    return f"sqlite:///{(_local_parent(home) or Path.cwd()) / 'mlruns.db'}"


class Tracker:
    """Start a run in a thread while the job starts (MLflow takes seconds to import), finish it when the job is done."""

    def __init__(self, config: TrackingConfig, *, output: str, home: str) -> None:
        self.uri = tracking_uri(config, home)
        self._config, self._output = config, output
        self._run_id: str | None = None
        self._thread: threading.Thread | None = None

    def start(self, params: Mapping[str, object]) -> None:
        """Create the run with its parameters, in the background; runs of this output that a dead job left open are closed as killed."""
        if self._config.enabled:
            self._thread = threading.Thread(target=lambda: self._guard(lambda: self._start(params)), name="mlflow", daemon=True)
            self._thread.start()

    def finish(self, metrics: Mapping[str, float], *, artifacts: Sequence[str] = (), status: str = "FINISHED") -> str | None:
        """Log metrics and files (paths or URLs), end the run as FINISHED, FAILED or KILLED and return its id; None where MLflow failed."""
        if self._thread is None:
            return None
        self._thread.join()
        if self._run_id is None:
            return None
        return self._guard(lambda: self._finish(metrics, artifacts, status))

    def _guard(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:  # whatever a tracking server or database does, the edited dataset stands
            print(
                f"WARNING: MLflow at {self.uri}: {type(error).__name__}: {error}\n"
                "         The output itself is complete and not affected; only this record is missing or partial.",
                file=sys.stderr,
                flush=True,
            )
            return None

    def _start(self, params: Mapping[str, object]) -> None:
        client = self._client()
        experiment = self._experiment(client)
        tag = self._output.replace("'", "")
        for run in client.search_runs([experiment], f"tags.`{OUTPUT_TAG}` = '{tag}' and attributes.status = 'RUNNING'"):
            client.set_terminated(run.info.run_id, status="KILLED")  # the lock on the output says that its job is dead
        run = client.create_run(experiment, tags={OUTPUT_TAG: tag})
        for name, value in params.items():
            client.log_param(run.info.run_id, name, str(value)[:PARAM_LIMIT])
        self._run_id = run.info.run_id

    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def _experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._config.experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(client.create_experiment(self._config.experiment, artifact_location=self._artifact_location()))

    def _artifact_location(self) -> str | None:
        """Keep artifacts beside a SQLite file; elsewhere the tracking server decides."""
        if not self.uri.startswith("sqlite:///"):
            return None
        folder = Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts"
        return (folder / self._config.experiment).as_uri()

    def _finish(self, metrics: Mapping[str, float], artifacts: Sequence[str], status: str) -> str:
        client, run_id = self._client(), self._run_id
        assert run_id is not None
        for name, value in metrics.items():
            client.log_metric(run_id, name, value)
        with tempfile.TemporaryDirectory() as folder:
            for url in artifacts:
                client.log_artifact(run_id, _fetch(url, Path(folder)))
        client.set_terminated(run_id, status=status)
        return run_id


def _fetch(url: str, folder: Path) -> str:
    target = folder / url.rsplit("/", 1)[-1]
    with fsspec.open(url, "rb") as source:
        target.write_bytes(source.read())
    return str(target)


def _local_parent(output: str) -> Path | None:
    if "://" in output and not output.startswith("file://"):
        return None
    return Path(output.removeprefix("file://")).resolve().parent
