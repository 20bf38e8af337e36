"""What every conversation with MLflow needs: a client, experiments, parameters, the end of a run; all in MLflow's own process."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import fsspec

from pipeline.child import Message
from pipeline.tracking import SQLITE

if TYPE_CHECKING:
    from mlflow import MlflowClient

SETUP_LOCK = ".mlflow-setup.lock"
PARAM_LIMIT = 6000  # MLflow refuses longer values,
PARAMS_AT_ONCE = 100  # more parameters
METRICS_AT_ONCE = 1000  # and more metrics in one request

Item = TypeVar("Item")


def connect(uri: str) -> MlflowClient:
    """Return a client of a tracking server or database."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    if uri.startswith(SQLITE) and (folder := Path(uri.removeprefix(SQLITE)).parent).is_dir():
        # MLflow makes the tables of a new database on first use, and two processes that do so at once break each other.
        with (folder / SETUP_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            client.search_experiments(max_results=1)
    return client


def end_run(client: MlflowClient, run_id: str, end: Message) -> None:
    """Log metrics, tags and files and end the run."""
    for name, value in dict(end.get("tags", {})).items():  # type: ignore[call-overload]
        client.set_tag(run_id, name, value)
    for name, value in dict(end.get("metrics", {})).items():  # type: ignore[call-overload]
        client.log_metric(run_id, name, value)
    with tempfile.TemporaryDirectory() as folder:
        for url in list(end.get("artifacts", [])):  # type: ignore[call-overload]
            client.log_artifact(run_id, _fetched(url, Path(folder)))
    client.set_terminated(run_id, status=str(end["status"]))


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Log parameters, cut where MLflow refuses their length."""
    from mlflow.entities import Param

    entries = [Param(allowed(name), value[:PARAM_LIMIT]) for name, value in params.items()]
    for some in chunks(entries, PARAMS_AT_ONCE):
        client.log_batch(run_id, params=some)


def allowed(name: str) -> str:
    """Return a name of a parameter or metric in the characters that MLflow takes."""
    return "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "_-. /" else "_" for letter in name)[:250]


def unquoted(text: str) -> str:
    """Return a text that can stand between quotes in a search."""
    return text.replace("'", "")


def chunks(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield lists of up to `size` items."""
    everything = list(items)
    for start in range(0, len(everything), size):
        yield everything[start : start + size]


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """Return the experiment, created where there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifact_location(name, uri)))
        except MlflowException:  # another process was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _artifact_location(name: str, uri: str) -> str | None:
    """Keep artifacts beside a SQLite file; elsewhere the tracking server decides."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts" / name).as_uri()


def _fetched(url: str, folder: Path) -> str:
    target = folder / url.rsplit("/", 1)[-1]
    with fsspec.open(url, "rb") as source:
        target.write_bytes(source.read())
    return str(target)
