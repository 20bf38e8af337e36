"""A Ray of our own on this machine: started on free ports with a token, stopped by process id, never by name."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "HYPEREDIT_LOCAL_RAY"  # Ray starts children in sessions of their own and re-parents some: what they all inherit is the environment.
START_TIMEOUT_S = 180.0
GRACE_S = 3.0
OBJECT_STORE_BYTES = 1 << 30
GIVEN_PORTS = (
    "--port", "--dashboard-port", "--dashboard-agent-listen-port", "--dashboard-agent-grpc-port", "--runtime-env-agent-port",
    "--metrics-export-port", "--ray-client-server-port", "--node-manager-port", "--object-manager-port",
)  # fmt: skip


class RayStartError(RuntimeError):
    """Ray did not come up."""


@dataclass(frozen=True, kw_only=True)
class LocalRay:
    """What a client needs: the address of the job server, the address of the cluster, and an environment with the token."""

    job_address: str
    address: str
    env: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `ray ...` that works wherever the environment was moved to."""
        return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on, all different."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def processes_of(mark: str) -> list[psutil.Process]:
    """Return the live processes that were started under `mark`, and their descendants: a process that renames itself hides its mark."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return [process for process in found.values() if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process still does anything; one that only waits for its parent to look does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _environment(folder: Path, mark: str) -> dict[str, str]:
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    own = {
        MARK: mark,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        # `python` in a submitted job is looked up here: it has to be the one that runs this.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | own


def _wait_until_ready(ray: LocalRay, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if head.poll() is not None:
            break
        listed = subprocess.run(
            ray.command("job", "list", "--address", ray.job_address), env=ray.env, capture_output=True, start_new_session=True, check=False
        )
        if listed.returncode == 0:
            return
        time.sleep(0.5)
    state = "still starting" if head.poll() is None else f"exit code {head.returncode}"
    said = log.read_text(errors="replace").strip()[-2000:]
    raise RayStartError(f"Ray did not answer at {ray.job_address} within {START_TIMEOUT_S:.0f} s ({state}). Its last words:\n{said}")


def stop(mark: str) -> None:
    """End every process started under `mark`: ask first, then insist; processes that appear meanwhile are caught by the next round."""
    known: dict[int, psutil.Process] = {}  # a child whose parent is gone can no longer be found through it
    for attempt in range(5):
        known |= {process.pid: process for process in processes_of(mark)}
        known = {pid: process for pid, process in known.items() if is_alive(process)}
        if not known:
            return
        for process in known.values():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM if attempt == 0 else signal.SIGKILL)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and any(is_alive(process) for process in known.values()):
            time.sleep(0.1)


@contextmanager
def local_ray(*, num_cpus: int | None = None) -> Iterator[LocalRay]:
    """Start a Ray head with a job server, yield how to reach it, and end everything it started, whatever happens inside.

    The job server listens on 127.0.0.1 alone. Ray opens its other ports to the network: they ask for a token that only this user can
    read, except for the metrics pages, which ask for nothing.
    Raises RayStartError with Ray's own output when it does not come up.
    """
    mark = secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="hyperedit-ray-"))  # short: Ray puts Unix sockets in it, whose paths may have 107 characters
    ports = free_ports(len(GIVEN_PORTS))
    ray = LocalRay(job_address=f"http://127.0.0.1:{ports[1]}", address=f"127.0.0.1:{ports[0]}", env=_environment(folder, mark))
    options = [f"{name}={port}" for name, port in zip(GIVEN_PORTS, ports, strict=True)]
    options += [f"--num-cpus={num_cpus}"] if num_cpus is not None else []
    options += [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1"]
    log = folder / "head.log"
    head = None
    try:
        with log.open("wb") as out:
            command = ray.command("start", "--head", "--block", "--include-dashboard=true", "--dashboard-host=127.0.0.1", *options)
            head = subprocess.Popen(command, env=ray.env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        _wait_until_ready(ray, head, log)
        yield ray
    finally:
        stop(mark)
        if head is not None:
            head.wait()
        shutil.rmtree(folder, ignore_errors=True)
