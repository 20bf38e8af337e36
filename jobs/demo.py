"""Show the whole path on one machine: make raw portraits, start a Ray, submit the edit job to it as a user would, name the report.

    python jobs/demo.py [--folder out/demo] [--count 320] [--instructions FILE] [--pack FOLDER]

The last line printed is JSON: pictures, edits, failures, seconds, exit code, where the report is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from jobs.local_ray import LocalRay, RayStartError, local_ray

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTIONS = "configs/instructions/portraits.yaml"
PACK = "packs/portraits64"
MARK = ".made-by-demo"
INTERRUPTED = 130


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description="Edit portraits that were made for the purpose, through a Ray started for the purpose.")
    parser.add_argument("--folder", type=Path, default=Path("out/demo"), help="where shards go; emptied first (default: %(default)s)")
    parser.add_argument("--count", type=int, default=320, help="how many portraits (default: %(default)s)")
    parser.add_argument("--instructions", default=INSTRUCTIONS, help="YAML file of instructions (default: %(default)s)")
    parser.add_argument("--pack", default=PACK, help="folder of trained networks (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.count < 1:
        parser.error(f"--count {options.count}: expected 1 or more")
    if not Path(options.instructions).is_file():
        parser.error(f"--instructions {options.instructions}: no such file")
    if not Path(options.pack, "pack.yaml").is_file():
        parser.error(f"--pack {options.pack}: no pack.yaml there; `make pack` trains packs/portraits64, which takes hours")
    return options


def say(text: str) -> None:
    """Print a headline."""
    print(f"\n==> {text}", flush=True)


def empty_folder(folder: Path) -> None:
    """Empty a folder of an earlier demo. Raises DemoError where it holds anything else."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise DemoError(f"{folder} holds files that the demo did not write: name another folder with --folder, or empty it")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def make_portraits(folder: Path, count: int) -> None:
    """Write raw shards: portraits that are rotated, shifted and scaled, as JPEGs with their truth beside them."""
    shard_size = max(1, min(40, count // 4))  # several shards even for a small count: they are what runs in parallel
    command = [sys.executable, "jobs/make_portraits.py", "--output", str(folder), "--count", str(count), "--shard_size", str(shard_size)]
    if (code := run_apart(command, env=dict(os.environ))) != 0:
        raise DemoError(f"jobs/make_portraits.py ended with exit code {code}")


def submit(ray: LocalRay, raw: Path, edited: Path, options: argparse.Namespace) -> int:
    """Submit the edit job, stream what it prints, and return its exit code."""
    job = ["python", "jobs/edit_dataset.py", "--input", str(raw), "--output", str(edited), "--instructions", options.instructions]
    job += ["--pack", options.pack] if options.pack != PACK else []
    submitting = ray.command("--logging-level=error", "job", "submit", "--address", ray.job_address, "--working-dir", ".", "--", *job)
    print("ray job submit --working-dir . -- " + " ".join(job), flush=True)
    return run_apart(submitting, env=ray.env)


def run_apart(command: list[str], *, env: Mapping[str, str]) -> int:
    """Run a command that a Ctrl-C in the terminal does not reach: this process alone answers it, and then ends the command."""
    return subprocess.run(command, cwd=ROOT, env=env, start_new_session=True, check=False).returncode


def summary(edited: Path, *, job_s: float, exit_code: int) -> dict[str, object]:
    """Return what the run recorded about itself, with the exit code and the seconds from submission to end."""
    report, record = edited / "report.html", edited / "run.json"
    run = json.loads(record.read_text()) if record.is_file() else {}
    counts = run.get("counts", {})
    where = str(report) if report.is_file() else None
    return {**counts, "images_per_s": run.get("images_per_s"), "seconds": round(job_s, 1), "exit_code": exit_code, "report": where}


def run(options: argparse.Namespace) -> int:
    """Run the demo and return the exit code of the job."""
    started = time.monotonic()
    folder = options.folder.resolve()
    raw, edited = folder / "raw", folder / "edited"
    empty_folder(folder)
    say(f"making {options.count} raw portraits in {raw}")
    make_portraits(raw, options.count)
    say("starting Ray on this machine")
    with local_ray() as ray:
        say("submitting the edit job")
        submitted = time.monotonic()
        exit_code = submit(ray, raw, edited, options)
        job_s = time.monotonic() - submitted
        say("stopping Ray")
    found = summary(edited, job_s=job_s, exit_code=exit_code)
    elapsed_s = round(time.monotonic() - started, 1)
    if exit_code == 0:
        say(f"done in {elapsed_s:.0f} s ({job_s:.0f} s of them the job): open {found['report']}")
    else:
        say(f"the job failed with exit code {exit_code} after {job_s:.0f} s; its last words are above")
    print(json.dumps({**found, "seconds_total": elapsed_s}), flush=True)
    return exit_code


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # Once: what follows is the clean-up, which a second Ctrl-C must not cut short.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo from the command line."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run(parse(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\ninterrupted: everything that the demo started was stopped; a new `make demo` begins anew", file=sys.stderr, flush=True)
        return INTERRUPTED
    except (DemoError, RayStartError) as error:
        print(f"demo: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
