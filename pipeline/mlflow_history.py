"""The runs of an experiment that went before: their metrics and tags, the one that is marked, a file of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.child import Message
from pipeline.mlflow_client import connect, unquoted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOST_RUNS = 200


def answer(request: Message) -> Message:
    """Serve one request: `history`, `fetch` or `mark`."""
    client = connect(str(request["uri"]))
    if request["do"] == "history":
        return history(client, request)
    if request["do"] == "fetch":
        return {"path": client.download_artifacts(str(request["run_id"]), str(request["file"]), str(request["folder"]))}
    return mark(client, request)


def history(client: MlflowClient, request: Message) -> Message:
    """Return the latest finished runs with some tags, oldest first, and the latest of them all that has the tag `mark`; None without."""
    experiment = client.get_experiment_by_name(str(request["experiment"]))
    if experiment is None:
        return {"runs": [], "marked": None}
    where = _where(request["tags"])
    marked_too, newest = f"{where} and tags.`{request['mark']}` = 'true'", ["attributes.start_time DESC"]
    runs = client.search_runs([experiment.experiment_id], where, max_results=MOST_RUNS, order_by=newest)
    marked = client.search_runs([experiment.experiment_id], marked_too, max_results=1, order_by=newest)
    return {"runs": [_plain(run) for run in reversed(runs)], "marked": _plain(marked[0]) if marked else None}


def mark(client: MlflowClient, request: Message) -> Message:
    """Give a run the tag `mark` and take it from the others of its experiment with the same tags."""
    name, run_id = str(request["mark"]), str(request["run_id"])
    experiment = client.get_run(run_id).info.experiment_id
    for run in client.search_runs([experiment], f"{_where(request['tags'])} and tags.`{name}` = 'true'"):
        if run.info.run_id != run_id:
            client.delete_tag(run.info.run_id, name)
    client.set_tag(run_id, name, "true")
    return {"run_id": run_id}


def _where(tags: object) -> str:
    assert isinstance(tags, Mapping)
    terms = [f"tags.`{name}` = '{unquoted(str(value))}'" for name, value in tags.items()]
    return " and ".join(["attributes.status = 'FINISHED'", *terms])


def _plain(run: Run) -> dict[str, object]:
    info = run.info
    return {"run_id": info.run_id, "name": info.run_name, "start_ms": info.start_time, "tags": run.data.tags, "metrics": run.data.metrics}
