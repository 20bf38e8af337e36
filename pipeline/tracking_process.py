"""The process that talks to MLflow for one job: `python -m pipeline.tracking_process`.

It reads two JSON lines, how the run starts and how it ends, and answers each with a line: {"run_id": ...} or {"error": ...}. When the
input ends after the first line, the driver is dead and the run is closed as killed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec

if TYPE_CHECKING:
    from mlflow import MlflowClient

OUTPUT_TAG = "hyperedit.output"
PARAM_LIMIT = 6000  # MLflow refuses longer values
NICENESS = 10


def main() -> int:
    """Serve one job; return 0 where MLflow did everything."""
    os.nice(NICENESS)  # the job itself comes first
    answers = sys.stdout
    sys.stdout = sys.stderr  # MLflow prints
    try:
        request = json.loads(sys.stdin.readline())
        client, run_id = start_run(request)
        print(json.dumps({"run_id": run_id}), file=answers, flush=True)
        end = json.loads(sys.stdin.readline() or '{"status": "KILLED"}')
        finish_run(client, run_id, end)
        print(json.dumps({"run_id": run_id}), file=answers, flush=True)
    except BrokenPipeError:
        return 1
    except Exception as error:  # whatever a tracking server or database does, the driver is told and goes on
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        return 1
    return 0


def start_run(request: Mapping[str, object]) -> tuple[MlflowClient, str]:
    """Create the run; close those of the same output that are still open: the lock on the output says that their job is dead."""
    from mlflow import MlflowClient

    uri, output = str(request["uri"]), str(request["output"])
    client = MlflowClient(tracking_uri=uri)
    experiment = _experiment(client, str(request["experiment"]), uri)
    quoted = output.replace("'", "")
    for run in client.search_runs([experiment], f"tags.`{OUTPUT_TAG}` = '{quoted}' and attributes.status = 'RUNNING'"):
        client.set_terminated(run.info.run_id, status="KILLED")
    run_id = str(client.create_run(experiment, tags={OUTPUT_TAG: quoted}).info.run_id)
    for name, value in dict(request["params"]).items():  # type: ignore[call-overload]
        client.log_param(run_id, name, value[:PARAM_LIMIT])
    return client, run_id


def finish_run(client: MlflowClient, run_id: str, end: Mapping[str, object]) -> None:
    """Log metrics and files and end the run."""
    for name, value in dict(end.get("metrics", {})).items():  # type: ignore[call-overload]
        client.log_metric(run_id, name, value)
    with tempfile.TemporaryDirectory() as folder:
        for url in list(end.get("artifacts", [])):  # type: ignore[call-overload]
            client.log_artifact(run_id, _fetched(url, Path(folder)))
    client.set_terminated(run_id, status=str(end["status"]))


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=_artifact_location(name, uri)))


def _artifact_location(name: str, uri: str) -> str | None:
    """Keep artifacts beside a SQLite file; elsewhere the tracking server decides."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts" / name).as_uri()


def _fetched(url: str, folder: Path) -> str:
    target = folder / url.rsplit("/", 1)[-1]
    with fsspec.open(url, "rb") as source:
        target.write_bytes(source.read())
    return str(target)


if __name__ == "__main__":
    sys.exit(main())
