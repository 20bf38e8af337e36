"""Submit a job to Ray whenever a cron expression is due, or once.

    python jobs/schedule.py --cron "30 2 * * *" --name nightly -- jobs/evaluate.py --suite editing --champion auto --output /srv/nightly
    python jobs/schedule.py --now --name nightly -- jobs/evaluate.py ...

Runs are numbered (nightly-000001, nightly-000002 ...) in Ray's job API, where no two of them overlap, however many schedulers there are. A
scheduler that was restarted goes on where it was. Errors are said on standard error. Exit codes: 0 ended by SIGTERM or Ctrl-C, or the run
of `--now` succeeded; with `--now` that of the job where it failed; 2 wrong arguments; 4 the run before has not ended; 5 Ray does not
answer. docs/scheduling.md has the rest.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import jsonargparse

from hosting.job_runs import NAME, RayUnreachableError, Runs, ScheduleError, StillRunningError, Work
from hosting.scheduler import Scheduler, cron
from pipeline.config import with_values
from pipeline.training_run import COMMIT_VARIABLE, git_commit

WRONG, STILL_RUNNING, UNREACHABLE = 2, 4, 5
PASSED_ON = ("MLFLOW_TRACKING_URI",)


@dataclass(frozen=True, kw_only=True)
class Options:
    """When to submit what; the job and its arguments follow after `--`.

    Args:
        cron: When the job is due: minute, hour, day of the month, month, day of the week.
        timezone: Time zone of the cron expression.
        now: Submit one run at once and wait for its end.
        name: Name of the schedule: small letters, digits and dashes. Runs of one name never overlap.
        address: Ray's job server.
        working_dir: Folder that is shipped with the job and in which it starts.
        env: Environment variables of the job, beside MLFLOW_TRACKING_URI and the commit.
        grace_s: By how much a run may be late, in seconds: after that it is missed.
    """

    cron: str | None = None
    timezone: str = "UTC"
    now: bool = False
    name: str = "nightly"
    address: str = "http://127.0.0.1:8265"
    working_dir: str = "."
    env: dict[str, str] = field(default_factory=dict)
    grace_s: float = 3600.0


def say(text: str) -> None:
    """Report what happens, with the time."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} schedule: {text}", file=sys.stderr, flush=True)


def work_of(options: Options, job: list[str]) -> Work:
    """Return what is submitted. Raises ValueError."""
    if (options.cron is None) == (not options.now):
        raise ValueError("expected either --cron or --now")
    if not re.fullmatch(NAME, options.name):
        raise ValueError(f"--name {options.name}: expected small letters, digits and dashes, such as nightly")
    if options.grace_s <= 0:
        raise ValueError(f"--grace_s {options.grace_s:g}: expected more than 0")
    if not job:
        raise ValueError("expected the job after `--`, such as: -- jobs/evaluate.py --suite editing --champion auto --output /srv/nightly")
    script = Path(options.working_dir) / job[0]
    if not script.is_file():
        raise ValueError(f"{job[0]}: no such file in --working_dir {options.working_dir}")
    commit = git_commit()
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | ({COMMIT_VARIABLE: commit} if commit else {}) | options.env
    return Work(name=options.name, entrypoint=shlex.join(["python", *job]), working_dir=options.working_dir, env=env)


def once(runs: Runs) -> int:
    """Submit a run, follow it and return its exit code. Ctrl-C leaves it running."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    run_id = runs.start(datetime.now(UTC))
    say(f"started {run_id}")
    ended = runs.follow(run_id, stop=stop)
    say(f"{run_id} goes on in Ray" if ended is None else ended.told())
    return 0 if ended is None else ended.code


def main() -> int:
    """Run the schedule; return the exit code."""
    place = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = jsonargparse.auto_cli(Options, args=with_values(sys.argv[1:place], {"--now"}), as_positional=False)
    try:
        runs = Runs(options.address, work_of(options, sys.argv[place + 1 :]))
        if options.cron is None:
            return once(runs)
        Scheduler(runs, cron(options.cron, options.timezone), grace_s=options.grace_s, say=say).serve()
    except ValueError as error:
        print(f"schedule: {error}", file=sys.stderr)
        return WRONG
    except RayUnreachableError as error:
        print(f"schedule: {error}", file=sys.stderr)
        return UNREACHABLE
    except ScheduleError as error:
        print(f"schedule: {error}", file=sys.stderr)
        return STILL_RUNNING if isinstance(error, StillRunningError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
