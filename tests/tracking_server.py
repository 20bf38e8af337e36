"""MLflow to test against: a database, and a server that is started once and stopped by its own id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HEALTHY_TIMEOUT_S = 180


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where runs and packs are kept; `artifacts` is the folder that holds the files in the end."""

    uri: str
    artifacts: Path


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a SQLite file, not made yet."""
    folder = tmp_path_factory.mktemp("database")
    return Store(uri=f"sqlite:///{folder / 'mlruns.db'}", artifacts=folder / "mlartifacts")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Start `mlflow server` with artifacts through it; stop it with its workers."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options, "--artifacts-destination", str(folder / "artifacts")],
            cwd=folder,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    store = Store(uri=f"http://127.0.0.1:{port}", artifacts=folder / "artifacts")
    try:
        _wait_until_healthy(store.uri, process, folder / "log.txt")
        yield store
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(params=["database", pytest.param("server", marks=pytest.mark.mlflow)])
def store(request: pytest.FixtureRequest) -> Store:
    """Return each kind of store in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Store)
    return found


def _wait_until_healthy(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + HEALTHY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"mlflow server at {uri} is not healthy:\n{log.read_text()[-3000:]}")
