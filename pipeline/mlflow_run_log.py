"""What the process of a training's writer holds between its owner and MLflow: what waits, what was logged, what the machine does."""

from __future__ import annotations

import base64
import io
import os
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from pipeline.child import Message
from pipeline.mlflow_client import METRICS_AT_ONCE, allowed, chunks, connect
from pipeline.tracking import SQLITE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

SHEET = "sheet"
SYSTEM = "system/"
SYSTEM_EVERY_S = 10.0
RETRY_S = 10.0
MOST_PENDING = 5000
HTTP_TIMEOUT_S = "20"
HOPELESS_CODES = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED", "INVALID_STATE", "BAD_REQUEST"}
HOPELESS = (FileNotFoundError, UnidentifiedImageError, ValueError, TypeError)  # trying again changes nothing


class RunLog:
    """Log messages to a run in order; keep them while MLflow does not answer, up to a limit, and drop those that it refuses."""

    def __init__(self, uri: str, run_id: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", HTTP_TIMEOUT_S)
        self.done = 0
        self.problem = ""
        self._uri, self._run_id = uri, run_id
        self._pending: deque[Message] = deque()
        self._client: MlflowClient | None = None
        self._last: dict[str, int] = {}
        self._sheets: set[int] = set()
        self._monitor: SystemMetricsMonitor | None = None
        self._sample_at = self._retry_at = 0.0

    def add(self, messages: Sequence[Message]) -> None:
        """Take messages from the owner, and now and then what the machine does."""
        space = max(MOST_PENDING - len(self._pending), 0)
        self._pending += messages[:space]
        now = time.monotonic()
        if self._monitor is not None and space and now >= self._sample_at:
            self._sample_at = now + SYSTEM_EVERY_S
            self._pending.append({"figures": _sample(self._monitor), "time_ms": int(time.time() * 1000), "step": None})

    def flush(self, *, last: bool = False) -> None:
        """Log what waits, unless MLflow failed just now; `last` tries in any case."""
        if time.monotonic() < self._retry_at and not last:
            return
        while self._pending or self._client is None:
            group = self._next_group()
            try:
                self._store(self._client or self._connect(), group)
            except Exception as error:  # whatever a server, database or file does
                self.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
                if self._client is None or not _is_hopeless(error):
                    self._retry_at = time.monotonic() + RETRY_S
                    return
            else:
                self.done += sum(message.get("step", 0) is not None for message in group)
            for _ in group:
                self._pending.popleft()

    def _next_group(self) -> list[Message]:
        """Return metrics that fit into one request, or one picture or file."""
        group: list[Message] = []
        size = 0
        for message in self._pending:
            figures = message.get("figures")
            size += len(figures) if isinstance(figures, Mapping) else METRICS_AT_ONCE
            if group and size > METRICS_AT_ONCE:
                break
            group.append(message)
        return group

    def _connect(self) -> MlflowClient:
        if self._uri.startswith(SQLITE) and not Path(self._uri.removeprefix(SQLITE)).is_file():
            raise FileNotFoundError(
                f"this machine has no such file; where workers run on other machines, start `mlflow server` and give its address "
                f"as --tracking.uri (found {self._uri}, expected http://HOST:PORT)"
            )
        client = connect(self._uri)
        run = client.get_run(self._run_id)
        # The latest step of each metric is public only through its whole history, which grows long.
        self._last = {metric.key: metric.step for metric in run.data._metric_objs}
        names = [Path(entry.path).name for entry in client.list_artifacts(self._run_id, "images")]
        self._sheets = {int(match[1]) for name in names if (match := re.match(rf"{SHEET}\+step\+(\d+)\+", name))}
        self._monitor = _monitor(self._run_id, self._uri)
        self._client = client
        return client

    def _store(self, client: MlflowClient, group: Sequence[Message]) -> None:
        if not group:
            return
        first = group[0]
        if "figures" in first:
            self._log_metrics(client, group)
        elif "picture" in first:
            self._log_picture(client, int(str(first["step"])), base64.b64decode(str(first["picture"])))
        else:
            client.log_artifact(self._run_id, str(first["path"]), str(first["folder"]) or None)

    def _log_metrics(self, client: MlflowClient, group: Sequence[Message]) -> None:
        last = dict(self._last)
        entries = [entry for message in group for entry in _new_metrics(message, last)]
        for some in chunks(entries, METRICS_AT_ONCE):
            client.log_batch(self._run_id, metrics=some)
        self._last = last

    def _log_picture(self, client: MlflowClient, step: int, data: bytes) -> None:
        if step not in self._sheets:
            client.log_image(self._run_id, Image.open(io.BytesIO(data)), key=SHEET, step=step, synchronous=True)
            self._sheets.add(step)


def _new_metrics(message: Message, last: dict[str, int]) -> list[Metric]:
    """Return the metrics whose step is new, and note it in `last`; samples of the machine have no step and get the next."""
    from mlflow.entities import Metric

    figures, step, found = message["figures"], message["step"], []
    assert isinstance(figures, Mapping)
    for name, value in figures.items():
        key = allowed(name)
        this = last.get(key, -1) + 1 if step is None else int(str(step))
        if this > last.get(key, -1):
            last[key] = this
            found.append(Metric(key, float(value), int(str(message["time_ms"])), this))
    return found


def _monitor(run_id: str, uri: str) -> SystemMetricsMonitor:
    """Return what samples CPU, memory, disk, network and GPUs; the first sample of CPU is nonsense and thrown away."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, tracking_uri=uri)
    _sample(monitor)
    return monitor


def _sample(monitor: SystemMetricsMonitor) -> dict[str, float]:
    monitor.collect_metrics()
    figures = {SYSTEM + name: float(value) for name, value in monitor.aggregate_metrics().items()}
    for part in monitor.monitors:
        part.clear_metrics()
    return figures


def _is_hopeless(error: Exception) -> bool:
    return isinstance(error, HOPELESS) or getattr(error, "error_code", "") in HOPELESS_CODES
