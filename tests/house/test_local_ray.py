"""The Ray that the demo starts runs submitted jobs and leaves nothing behind."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jobs.local_ray import MARK, is_alive, local_ray, processes_of
from tests.models.small_pack import write_small_pack

ROOT = Path(__file__).parents[2]
JOB = """
import os, sys, ray
import beside
ray.init()
print("job saw", beside.WORD, os.environ["RAY_AUTH_MODE"], ray.get(ray.remote(lambda: 6 * 7).remote()), sys.executable)
sys.exit(int(sys.argv[1]))
"""


def wait_for(condition: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {timeout_s} s"
        time.sleep(0.2)


def processes_with(marker: str) -> list[str]:
    """Return the command lines of live processes that inherited HYPEREDIT_TEST=marker."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HYPEREDIT_TEST") == marker:
                found.append(" ".join(process.cmdline())[:200])
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_job_runs_in_its_working_dir_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.py").write_text(JOB)
    (tmp_path / "beside.py").write_text("WORD = 'the module in the working dir'")
    with local_ray(num_cpus=2) as ray:
        token = Path(ray.env["RAY_AUTH_TOKEN_PATH"])
        assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(token.read_text()) >= 32
        results = {}
        for code in ("0", "3"):
            submit = ["job", "submit", "--address", ray.job_address, "--working-dir", str(tmp_path), "--", "python", "jobs/job.py", code]
            results[code] = subprocess.run(ray.command(*submit), env=ray.env, cwd=tmp_path, capture_output=True, text=True, check=False)
        without_token = {name: value for name, value in ray.env.items() if not name.startswith("RAY_AUTH")} | {"RAY_AUTH_MODE": "disabled"}
        refused = subprocess.run(
            ray.command("job", "list", "--address", ray.job_address), env=without_token, cwd=tmp_path, capture_output=True, check=False
        )
        mark, port = ray.env[MARK], int(ray.job_address.rsplit(":", 1)[1])
        started = processes_of(mark)
        assert any("raylet" in process.name() for process in started) and any("ray::" in process.name() for process in started)
    assert results["0"].returncode == 0, results["0"].stdout + results["0"].stderr
    assert f"job saw the module in the working dir token 42 {sys.executable}" in results["0"].stdout
    assert results["3"].returncode != 0 and refused.returncode != 0
    assert not [process for process in started if is_alive(process)] and not processes_of(mark) and not token.parent.exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.chaos
@pytest.mark.long
@pytest.mark.timeout(240)
def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    marker = f"demo-under-test-{os.getpid()}"
    pack = write_small_pack(tmp_path / "pack")
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "jobs/demo.py", "--folder", str(tmp_path / "demo"), "--count", "8", "--pack", str(pack)]
        marked = os.environ | {"HYPEREDIT_TEST": marker}
        demo = subprocess.Popen(command, cwd=ROOT, env=marked, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: "submitting the edit job" in (tmp_path / "log").read_text() or demo.poll() is not None, timeout_s=120)
        assert demo.poll() is None, (tmp_path / "log").read_text()
        time.sleep(3)  # the job is being submitted or runs
        started = psutil.Process(demo.pid).children(recursive=True)
        assert any("raylet" in process.name() for process in started)
        # As a terminal does on Ctrl-C: the whole foreground group hears it, twice if the user is impatient.
        os.killpg(demo.pid, signal.SIGINT)
        time.sleep(0.5)
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(timeout=60) == 130, (tmp_path / "log").read_text()
    finally:
        if demo.poll() is None:
            demo.kill()
    assert not [process for process in started if is_alive(process)] and not processes_with(marker)
    assert "Traceback" not in (tmp_path / "log").read_text()
