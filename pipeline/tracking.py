"""Record a job as an MLflow run: parameters, metrics, report. MLflow is a witness: its failure is said loudly and never ends a job.

MLflow lives in a process of its own (`pipeline/tracking_process.py`): it takes seconds to import, may hang on a server that does not
answer, and closes the run as killed when the driver goes without a word.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import TrackingConfig

START_TIMEOUT_S = 120.0
FINISH_TIMEOUT_S = 180.0


class TrackingError(RuntimeError):
    """MLflow did not do what it was asked to."""


def tracking_uri(config: TrackingConfig, home: str) -> str:
    """Return where the run goes: the configured URI, MLFLOW_TRACKING_URI, or a SQLite file beside a local output (else in this folder)."""
    given = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    return f"sqlite:///{(_local_parent(home) or Path.cwd()) / 'mlruns.db'}"


class Tracker:
    """Start a run while the job starts, finish it when the job is done."""

    def __init__(self, config: TrackingConfig, *, output: str, home: str) -> None:
        self.uri = tracking_uri(config, home)
        self._config, self._output = config, output
        self._process: subprocess.Popen[str] | None = None

    def start(self, params: Mapping[str, object]) -> None:
        """Create the run with its parameters, in the background; runs of this output that a dead job left open are closed as killed."""
        if not self._config.enabled:
            return
        run = {"uri": self.uri, "experiment": self._config.experiment, "output": self._output}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.tracking_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])},
            start_new_session=True,  # Ctrl-C is for the driver, which then says how the run ended
        )
        self._send({**run, "params": {name: str(value) for name, value in params.items()}})

    def finish(self, metrics: Mapping[str, float], *, artifacts: Sequence[str] = (), status: str = "FINISHED") -> str | None:
        """Log metrics and files (paths or URLs), end the run as FINISHED, FAILED or KILLED and return its id; None where MLflow failed."""
        if self._process is None:
            return None
        try:
            run_id = self._answer(START_TIMEOUT_S)
            self._send({"metrics": dict(metrics), "artifacts": list(artifacts), "status": status})
            self._answer(FINISH_TIMEOUT_S)
            return run_id
        except TrackingError as error:
            print(
                f"WARNING: MLflow at {self.uri}: {error}\n"
                "         The output is not affected; only this record is missing or partial.",
                file=sys.stderr,
                flush=True,
            )
            return None
        finally:
            self._close()

    def _send(self, message: Mapping[str, object]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            return  # it is gone: the answer that does not come tells so

    def _answer(self, timeout_s: float) -> str:
        """Return what the process answers. Raises TrackingError where it names an error, ends, or stays silent."""
        process, lines = self._process, list[str]()
        assert process is not None and process.stdout is not None
        reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        reader.join(timeout_s)
        if not lines:
            raise TrackingError(f"no answer within {timeout_s:g} s")
        answer = json.loads(lines[0] or '{"error": "its process ended without an answer"}')
        if "error" in answer:
            raise TrackingError(answer["error"])
        return str(answer["run_id"])

    def _close(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process = None


def _local_parent(output: str) -> Path | None:
    if "://" in output and not output.startswith("file://"):
        return None
    return Path(output.removeprefix("file://")).resolve().parent
