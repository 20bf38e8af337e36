"""A cron schedule that submits runs to Ray, follows each to its end, and says whatever goes wrong."""

from __future__ import annotations

import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.cron import CronTrigger

from hosting.job_runs import AlreadyDoneError, RayUnreachableError, RunFailedError, Runs, ScheduleError

RETRY_S = 30.0
Say = Callable[[str], None]
T = TypeVar("T")


def cron(expression: str, timezone: str) -> CronTrigger:
    """Read five fields: minute, hour, day of the month, month, day of the week. Raises ValueError."""
    try:
        trigger = CronTrigger.from_crontab(expression, timezone=timezone)
    except (ValueError, LookupError, OSError) as error:
        raise ValueError(
            f'--cron "{expression}" --timezone {timezone}: expected minute, hour, day, month and weekday, such as "30 2 * * *", and '
            f"a zone such as UTC or Europe/Berlin; found: {error}"
        ) from None
    if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
        raise ValueError(f'--cron "{expression}": there is no such day, so it would never run')
    return trigger


def latest_fire(trigger: CronTrigger, now: datetime, *, grace_s: float) -> datetime | None:
    """Return the last time up to `now` at which the schedule was due, None where that is longer ago than `grace_s`."""
    found, due = None, trigger.get_next_fire_time(None, now - timedelta(seconds=grace_s))
    while due is not None and due <= now:
        found, due = due.astimezone(UTC), trigger.get_next_fire_time(due, due + timedelta(microseconds=1))
    return found


class Scheduler:
    """Submit a run whenever the schedule is due; a run that was missed while no scheduler ran is made up for, once."""

    def __init__(self, runs: Runs, trigger: CronTrigger, *, grace_s: float, say: Say) -> None:
        self.runs, self.trigger, self.grace_s, self.say = runs, trigger, grace_s, say
        self.stop = threading.Event()
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": max(1, round(grace_s))}
        self._scheduler = BlockingScheduler(timezone=UTC, job_defaults=defaults)
        self._scheduler.add_listener(self._heard, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)

    def serve(self) -> None:
        """Run until SIGTERM or Ctrl-C; a run in work goes on in Ray. Raises RayUnreachableError where Ray does not answer at the start."""
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # errors are said by `_heard`, without a traceback
        now = datetime.now(UTC)
        at_once = self.runs.live() is not None or self._missed(now) is not None
        due = self.trigger.get_next_fire_time(None, now)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._end())
        self._scheduler.add_job(self._due, self.trigger, id=self.runs.work.name, next_run_time=now if at_once else due)
        self.say(f"{self.runs.work.name}: `{self.runs.work.entrypoint}` on Ray at {self.runs.address}; due next at {due:%Y-%m-%d %H:%M %Z}")
        if not self.stop.is_set():
            self._scheduler.start()

    def _missed(self, now: datetime) -> datetime | None:
        """Return the time for which a run is missing: the latest due one, if Ray knows runs, but none for it."""
        due, last = latest_fire(self.trigger, now, grace_s=self.grace_s), self.runs.last_fire()
        return due if due is not None and last is not None and last < due else None

    def _due(self) -> None:
        """Follow the run that another scheduler, or this one before it was restarted, has started; then start the one that is due."""
        live = self._patiently(self.runs.live)
        if live is not None:
            self.say(f"{live.submission_id} is {live.status.value.lower()}: following it")
            self._follow(str(live.submission_id))
        fire = latest_fire(self.trigger, datetime.now(UTC), grace_s=self.grace_s)
        if fire is not None and not self.stop.is_set():
            with suppress(AlreadyDoneError):
                self._follow(self._patiently(lambda: self._started(fire)))

    def _started(self, fire: datetime) -> str:
        run_id = self.runs.start(fire)
        self.say(f"started {run_id} for {fire:%Y-%m-%d %H:%M} UTC")
        return run_id

    def _follow(self, run_id: str) -> None:
        ended = self.runs.follow(run_id, stop=self.stop)
        if ended is None:
            self.say(f"{run_id} goes on in Ray; the next scheduler will follow it")
        elif ended.code:
            raise RunFailedError(ended.told())
        else:
            self.say(ended.told())

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask Ray until it answers, for as long as a run may be late. Raises RayUnreachableError after that."""
        deadline, told = time.monotonic() + self.grace_s, False
        while True:
            try:
                return ask()
            except RayUnreachableError as error:
                if time.monotonic() > deadline or self.stop.is_set():
                    raise
                if not told:
                    self.say(f"{error}; trying again for {self.grace_s:.0f} s")
                told = True
                self.stop.wait(RETRY_S)

    def _heard(self, event: JobEvent) -> None:
        """Say what APScheduler tells in events only: an error, a run that was missed, a run that another one was in the way of."""
        if event.code == EVENT_JOB_ERROR:
            known = isinstance(event.exception, ScheduleError | RayUnreachableError)
            self.say(f"ERROR: {event.exception if known else ''.join(traceback.format_exception(event.exception))}")
        elif event.code == EVENT_JOB_MISSED:
            self.say(f"MISSED: the run due at {event.scheduled_run_time:%Y-%m-%d %H:%M %Z} is more than {self.grace_s:.0f} s late")
        else:
            times = ", ".join(f"{due:%Y-%m-%d %H:%M %Z}" for due in event.scheduled_run_times)
            self.say(f"SKIPPED: no run was started for {times}: the one before has not ended")

    def _end(self) -> None:
        self.stop.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
