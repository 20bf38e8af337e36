"""The one MLflow run of a training: the driver opens it, the first worker writes to it (maybe on another machine), the driver ends it.

A training that is started again goes on in its run, found by output and config. MLflow is a witness here as well: without it, or with a
server that does not answer, a training goes on, and what was not recorded is said once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.child import Child, ChildError, Message, Question, ask, take
from pipeline.config import TrackingConfig
from pipeline.tracking import FINISH_TIMEOUT_S, MLFLOW, START_TIMEOUT_S, tracking_uri, warn

TRAINING_TAG = "hyperedit.training"
CONFIG_TAG = "hyperedit.config_hash"
COMMIT_TAG = "mlflow.source.git.commit"
COMMIT_VARIABLE = "HYPEREDIT_COMMIT"  # says the commit where there is no .git: in the copy of the code that a submitted job works in
MOST_WAITING = 2000
UNAFFECTED = "The training is not affected; only this record is missing or partial."


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of MLflow as any process on any machine finds it; `run_id` is None where nothing is recorded."""

    uri: str
    run_id: str | None = None


class Opening:
    """A run that MLflow creates or finds while its owner does other things."""

    def __init__(self, uri: str, request: Message | None = None) -> None:
        self._uri, self._run = uri, Run(uri=uri) if request is None else None
        self._question = Question(MLFLOW, request) if request is not None else None

    def run(self) -> Run:
        """Wait for the run; one without an id where MLflow failed, which is said."""
        if self._run is None:
            assert self._question is not None
            try:
                answer = self._question.answer(timeout_s=START_TIMEOUT_S, keep_s=math.inf)
                self._run = Run(uri=self._uri, run_id=str(answer["run_id"]))
            except ChildError as error:
                warn(self._uri, error, consequence="The training goes on without a record of it in MLflow.")
                self._run = Run(uri=self._uri)
        return self._run


def open_run(config: TrackingConfig, *, output: str, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> Run:
    """Create the run of a training, or reopen it; see `begin_run`."""
    return begin_run(config, output=output, name=name, params=params, tags=tags).run()


def begin_run(
    config: TrackingConfig, *, output: str, name: str, params: Mapping[str, object], tags: Mapping[str, str], going_on: bool = False
) -> Opening:
    """Begin to create the run of a training, or to reopen it where one with this output and config exists that has not finished.

    `going_on` says that the output holds its checkpoints: then a finished one is reopened, too.
    The config is told apart by the tag `hyperedit.config_hash`, by default the hash of `params`, which are also kept as config.yaml.
    """
    uri = tracking_uri(config, output)
    if not config.enabled:
        return Opening(uri)
    text = yaml.safe_dump(plain(params), sort_keys=False, allow_unicode=True)
    commit = git_commit()
    request = {
        "do": "open",
        "finished_too": going_on,
        "uri": uri,
        "experiment": config.experiment,
        "name": name,
        "params": flatten(params),
        "config": text,
        "found_by": {TRAINING_TAG: output, CONFIG_TAG: tags.get(CONFIG_TAG) or hashlib.sha256(text.encode()).hexdigest()},
        "tags": {**({COMMIT_TAG: commit} if commit else {}), **tags},
    }
    return Opening(uri, request)


def end_run(
    run: Run, *, status: str, metrics: Mapping[str, float], artifacts: Sequence[str], tags: Mapping[str, str] | None = None
) -> None:
    """Log final metrics, tags and files (paths or URLs) and end the run as FINISHED, FAILED or KILLED; after the writer was closed."""
    if run.run_id is None:
        return
    request = {"do": "end", "uri": run.uri, "run_id": run.run_id, "status": status, "metrics": dict(metrics), "artifacts": list(artifacts)}
    request |= {"tags": dict(tags or {})}
    try:
        ask(MLFLOW, request, timeout_s=FINISH_TIMEOUT_S)
    except ChildError as error:
        warn(run.uri, error, consequence=UNAFFECTED)


class RunWriter:
    """Write metrics, pictures and files to a run from a process of its own, which also samples CPU, memory and GPU every ten seconds.

    No call waits for MLflow: what it cannot take is dropped, counted and told on leaving the context, which takes `finish_timeout_s`
    at most. A step that a metric has already, from before the training was resumed, is not logged again.
    """

    def __init__(self, run: Run, *, finish_timeout_s: float = 60.0) -> None:
        self._run, self._finish_timeout_s = run, finish_timeout_s
        self._child: Child | None = None
        self._waiting: queue.Queue[Message | None] = queue.Queue(MOST_WAITING)
        self._pump = threading.Thread(target=self._hand_over, daemon=True)
        self._given = 0
        self._state: dict[str, object] = {"done": 0, "problem": ""}
        self._silence = ""

    @property
    def pid(self) -> int | None:
        """Return the id of the process that talks to MLflow; None where nothing is recorded."""
        return self._child.pid if self._child else None

    def __enter__(self) -> RunWriter:
        if self._run.run_id is None:
            return self
        try:
            self._child = take(MLFLOW)
        except OSError as error:
            warn(
                self._run.uri,
                f"its process cannot be started: {error}",
                consequence="The training goes on without a record of it in MLflow.",
            )
        else:
            self._child.send({"do": "write", "uri": self._run.uri, "run_id": self._run.run_id, "owner": os.getpid()})
            self._pump.start()
        return self

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """Log figures of a step."""
        numbers = {name: float(value) for name, value in figures.items()}
        self._give({"step": step, "figures": numbers, "time_ms": int(time.time() * 1000)})

    def picture(self, step: int, png: bytes | str | Path) -> None:
        """Log a sample sheet, as bytes or a file; MLflow shows the sheets by step."""
        data = png if isinstance(png, bytes) else Path(png).read_bytes()
        self._give({"step": step, "picture": base64.b64encode(data).decode()})

    def file(self, path: str | Path, folder: str = "") -> None:
        """Log a local file into a folder of the run; it has to stay until the writer is closed."""
        self._give({"path": str(Path(path).resolve()), "folder": folder})

    def __exit__(self, *error: object) -> None:
        if self._child is None:
            return
        self._finish(self._child, time.monotonic() + self._finish_timeout_s)
        self._child = None
        lost = self._given - int(str(self._state["done"]))
        problem = self._state["problem"] or self._silence
        if lost:
            what = f"{lost} of {self._given} records of run {self._run.run_id} were lost: {problem or 'they came faster than it took them'}"
            warn(self._run.uri, what, consequence=UNAFFECTED)
        elif self._state["problem"]:
            warn(self._run.uri, problem, consequence=UNAFFECTED)

    def _finish(self, child: Child, deadline: float) -> None:
        with suppress(queue.Full):
            self._waiting.put(None, timeout=self._finish_timeout_s / 4)
        self._pump.join(max(deadline - time.monotonic(), 0.0))
        while not self._pump.is_alive() and "ended" not in self._state and self._listen(max(deadline - time.monotonic(), 0.0)):
            pass
        if "ended" in self._state:
            child.close()
        else:
            child.kill()

    def _give(self, message: Message) -> None:
        if self._child is None:
            return
        self._given += 1
        with suppress(queue.Full):
            self._waiting.put_nowait(message)

    def _hand_over(self) -> None:
        """Write to the pipe, which blocks where the child is slow, and hear how far it is."""
        assert self._child is not None
        while (message := self._waiting.get()) is not None:
            self._child.send(message)
            self._listen(0.0)
        self._child.send({"end": True})

    def _listen(self, timeout_s: float) -> bool:
        assert self._child is not None
        try:
            self._state = self._child.answer(timeout_s)
        except ChildError as error:
            self._silence = str(error)
            return False
        return True


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return nested mappings as one, the names joined by dots, the values as text."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def plain(value: object) -> object:
    """Return a value in the types that YAML knows; anything else as text."""
    return json.loads(json.dumps(value, default=str))


def git_commit() -> str | None:
    """Return the commit of this code, or what HYPEREDIT_COMMIT says; None where there is neither."""
    root, git = Path(__file__).parents[1], shutil.which("git")
    if not git or not (root / ".git").exists():
        return os.environ.get(COMMIT_VARIABLE)
    try:
        found = subprocess.run([git, "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(COMMIT_VARIABLE)
    return found.stdout.strip()
