"""The run of an edit job: opened when the job starts, closed with its end, or as killed where the job ends without a word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.child import Message
from pipeline.mlflow_client import connect, end_run, experiment_id, log_params, unquoted

if TYPE_CHECKING:
    from mlflow import MlflowClient

OUTPUT_TAG = "hyperedit.output"


def record_edit(request: Message, messages: Iterator[Message]) -> Iterator[Message]:
    """Start the run, wait for the message that says how the job ended, and end it; both times answer with {"run_id": ...}."""
    client = connect(str(request["uri"]))
    run_id = start_run(client, request)
    yield {"run_id": run_id}
    end_run(client, run_id, next(messages, {"status": "KILLED"}))
    yield {"run_id": run_id}


def start_run(client: MlflowClient, request: Message) -> str:
    """Create the run; close those of the same output that are still open: the lock on the output says that their job is dead."""
    experiment = experiment_id(client, str(request["experiment"]), str(request["uri"]))
    output = unquoted(str(request["output"]))
    for run in client.search_runs([experiment], f"tags.`{OUTPUT_TAG}` = '{output}' and attributes.status = 'RUNNING'"):
        client.set_terminated(run.info.run_id, status="KILLED")
    run_id = str(client.create_run(experiment, tags={OUTPUT_TAG: output}).info.run_id)
    log_params(client, run_id, dict(request["params"]))  # type: ignore[call-overload]
    return run_id
