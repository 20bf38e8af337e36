"""When a schedule is due, what it made of events that APScheduler tells, and wrong arguments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_MAX_INSTANCES,
    EVENT_JOB_MISSED,
    JobExecutionEvent,
    JobSubmissionEvent,
)

from hosting.job_runs import Ended, RunFailedError, Runs, Work
from hosting.scheduler import Scheduler, cron, latest_fire
from tests.commands import Command

NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
NIGHTLY = cron("30 2 * * *", "UTC")


@pytest.mark.parametrize(
    ("expression", "now", "grace_s", "due"),
    [
        ("30 2 * * *", NOON, 3600, None),
        ("30 2 * * *", NOON, 86400, NOON.replace(hour=2, minute=30)),
        ("*/5 * * * *", NOON, 3600, NOON),
        ("*/5 * * * *", NOON - timedelta(seconds=1), 3600, NOON - timedelta(minutes=5)),
        ("0 12 1 * *", NOON, 3600, None),
    ],
)
def test_the_latest_time_at_which_a_schedule_was_due(expression: str, now: datetime, grace_s: float, due: datetime | None) -> None:
    assert latest_fire(cron(expression, "UTC"), now, grace_s=grace_s) == due


def test_all_schedulers_name_a_run_by_the_same_time_in_any_zone() -> None:
    berlin = cron("30 3 * * *", "Europe/Berlin")
    late = [NOON.replace(hour=2, minute=minute, second=17) for minute in (30, 45)]
    assert {latest_fire(trigger, now, grace_s=3600) for trigger in (berlin, NIGHTLY) for now in late} == {NOON.replace(hour=2, minute=30)}


@pytest.mark.parametrize(
    ("expression", "timezone", "words"),
    [
        ("30 2 * *", "UTC", "Wrong number of fields"),
        ("61 2 * * *", "UTC", "61"),
        ("at night", "UTC", "Wrong number of fields"),
        ("30 2 * * *", "Mars/Olympus", "Mars/Olympus"),
        ("0 0 31 2 *", "UTC", "it would never run"),
    ],
)
def test_a_wrong_cron_is_named_with_what_was_expected(expression: str, timezone: str, words: str) -> None:
    with pytest.raises(ValueError, match=f'--cron "{expression}"'.replace("*", r"\*")) as caught:
        cron(expression, timezone)
    assert words in str(caught.value)


def heard() -> tuple[Scheduler, list[str]]:
    said: list[str] = []
    runs = Runs("http://127.0.0.1:1", Work(name="nightly", entrypoint="python jobs/evaluate.py", working_dir="."))
    return Scheduler(runs, NIGHTLY, grace_s=60, say=said.append), said


def test_what_is_only_told_in_events_is_said() -> None:
    scheduler, said = heard()
    failed = RunFailedError(Ended(run_id="nightly-000007", status="FAILED", code=3, message="exit code 3", tail="REGRESSION: smile").told())
    dispatch = scheduler._scheduler._dispatch_event
    dispatch(JobExecutionEvent(EVENT_JOB_ERROR, "nightly", "default", NOON, exception=failed))
    dispatch(JobExecutionEvent(EVENT_JOB_ERROR, "nightly", "default", NOON, exception=ZeroDivisionError("a mistake")))
    dispatch(JobExecutionEvent(EVENT_JOB_MISSED, "nightly", "default", NOON))
    dispatch(JobSubmissionEvent(EVENT_JOB_MAX_INSTANCES, "nightly", "default", [NOON]))
    assert said[0].startswith("ERROR: nightly-000007 FAILED, exit code 3") and said[0].endswith("REGRESSION: smile")
    assert "ZeroDivisionError: a mistake" in said[1]
    assert said[2] == "MISSED: the run due at 2026-11-27 12:00 UTC is more than 60 s late"
    assert said[3] == "SKIPPED: no run was started for 2026-11-27 12:00 UTC: the one before has not ended"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--", "jobs/evaluate.py"], "expected either --cron or --now"),
        (["--now", "--cron", "30 2 * * *", "--", "jobs/evaluate.py"], "expected either --cron or --now"),
        (["--now"], "expected the job after `--`"),
        (["--now", "--", "jobs/evalute.py"], "jobs/evalute.py: no such file in --working_dir ."),
        (["--now", "--name", "Every Night", "--", "jobs/evaluate.py"], "--name Every Night: expected small letters"),
        (["--now", "--grace_s", "0", "--", "jobs/evaluate.py"], "--grace_s 0: expected more than 0"),
        (["--cron", "30 2 * *", "--", "jobs/evaluate.py"], '--cron "30 2 * *" --timezone UTC: expected minute'),
        (["--cron", "30 2 * * *", "--fold", "x", "--", "jobs/evaluate.py"], "--fold"),
    ],
)
def test_wrong_arguments_end_with_two(flags: list[str], words: str, command: Command, tmp_path: Path) -> None:
    done = command("jobs/schedule.py", flags)
    assert done.code == 2 and words in done.err, done.err
