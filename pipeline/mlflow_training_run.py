"""The run of a training: opened or found again, written to while the training goes on, ended."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.child import Message
from pipeline.mlflow_client import connect, end_run, experiment_id, log_params, unquoted
from pipeline.mlflow_run_log import RunLog

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH_S = 1.0
ORPHAN_GRACE_S = 60.0
TAG_LIMIT = 5000


def answer(request: Message) -> Message:
    """Open or end a run; return its id."""
    client = connect(str(request["uri"]))
    if request["do"] == "open":
        return {"run_id": open_run(client, request)}
    end_run(client, str(request["run_id"]), request)
    return {"run_id": request["run_id"]}


def open_run(client: MlflowClient, request: Message) -> str:
    """Find the run that has not finished and reopen it, or create it; return its id."""
    experiment = experiment_id(client, str(request["experiment"]), str(request["uri"]))
    found_by = {name: unquoted(str(value)) for name, value in _mapping(request["found_by"]).items()}
    tags = {name: str(value)[:TAG_LIMIT] for name, value in (_mapping(request["tags"]) | found_by).items()}
    run_id = _begun(client, experiment, found_by, finished_too=bool(request["finished_too"]))
    params = {name: str(value) for name, value in _mapping(request["params"]).items()}
    if run_id is None:
        run_id = str(client.create_run(experiment, tags=tags, run_name=str(request["name"])).info.run_id)
    else:
        client.update_run(run_id, status="RUNNING")
        for name, value in tags.items():
            client.set_tag(run_id, name, value)
        known = client.get_run(run_id).data.params  # they cannot be changed; config.yaml below is the latest
        params = {name: value for name, value in params.items() if name not in known}
    log_params(client, run_id, params)
    client.log_text(run_id, str(request["config"]), "config.yaml")
    return run_id


def _begun(client: MlflowClient, experiment: str, found_by: Mapping[str, str], *, finished_too: bool) -> str | None:
    terms = [f"tags.`{name}` = '{value}'" for name, value in found_by.items()]
    terms += [] if finished_too else ["attributes.status != 'FINISHED'"]
    runs = client.search_runs([experiment], " and ".join(terms), max_results=1, order_by=["attributes.start_time DESC"])
    return str(runs[0].info.run_id) if runs else None


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def write(request: Message, messages: Iterator[Message]) -> Iterator[Message]:
    """Log what comes in batches until {"end": true} or the end of the input, tell how far it is, and end with the owner."""
    inbox: queue.Queue[Message | None] = queue.Queue()
    owner = int(str(request["owner"]))
    threading.Thread(target=_receive, args=(messages, inbox), daemon=True).start()
    threading.Thread(target=_outlive_briefly, args=(owner,), daemon=True).start()
    log = RunLog(str(request["uri"]), str(request["run_id"]))
    said: dict[str, object] = {}
    ended = False
    while not ended:
        batch, ended = _take(inbox)
        ended = ended or os.getppid() != owner  # the pipe may stay open in a process that the owner forked
        log.add(batch)
        log.flush(last=ended)
        state = {"done": log.done, "problem": log.problem}
        if state != said and not ended:
            yield state
        said = state
    yield {**said, "ended": True}


def _receive(messages: Iterator[Message], inbox: queue.Queue[Message | None]) -> None:
    for message in messages:
        if "end" in message:
            break
        inbox.put(message)
    inbox.put(None)


def _take(inbox: queue.Queue[Message | None]) -> tuple[list[Message], bool]:
    """Return what comes within a second, and whether it was the end."""
    batch: list[Message] = []
    deadline = time.monotonic() + BATCH_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            message = inbox.get(timeout=left)
        except queue.Empty:
            break
        if message is None:
            return batch, True
        batch.append(message)
    return batch, False


def _outlive_briefly(owner: int) -> None:
    """End this process some time after its owner died, whatever MLflow is doing."""
    while os.getppid() == owner:
        time.sleep(1)
    time.sleep(ORPHAN_GRACE_S)
    os._exit(1)
