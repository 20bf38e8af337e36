"""The runs of a schedule in Ray's job API: numbered, so that no two of them can run at a time, whoever submits them.

The id of a run is the schedule's name and the number after that of its last run, and a run is submitted only when the last one has ended.
Ray takes each id once. So of two schedulers that submit at the same moment one is refused; one that comes later sees the run, and the time
that it was started for. All that has to survive a restart of a scheduler is in Ray itself.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

NAME_KEY = "hyperedit.schedule"
FIRE_KEY = "hyperedit.fire"
NAME = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
POLL_S = 2.0
TAIL_LINES = 40
SILENT = (OSError, AuthenticationError)  # what requests raises is an OSError


class RayUnreachableError(RuntimeError):
    """Ray's job server does not answer."""


class ScheduleError(RuntimeError):
    """A run could not be submitted, or was not needed."""


class StillRunningError(ScheduleError):
    """The run before has not ended."""


class AlreadyDoneError(ScheduleError):
    """Another scheduler started this run."""


class RunFailedError(ScheduleError):
    """A run ended otherwise than with exit code 0."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is submitted: the command, the folder that it is shipped with and starts in, and its environment; `name` is the schedule's."""

    name: str
    entrypoint: str
    working_dir: str
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended; `code` is the exit code of its command, 1 where Ray knows none, 0 only where it succeeded."""

    run_id: str
    status: str
    code: int
    message: str = ""
    tail: str = ""

    def told(self) -> str:
        """Return how it ended and, unless well, the end of its log."""
        if self.code == 0:
            return f"{self.run_id} {self.status}"
        return f"{self.run_id} {self.status}, exit code {self.code}: {self.message}\n--- the end of its log:\n{self.tail}"


class Runs:
    """Submit and follow the runs of a schedule."""

    def __init__(self, address: str, work: Work) -> None:
        self.address, self.work = address, work
        self._connected: JobSubmissionClient | None = None

    def all(self) -> list[JobDetails]:
        """Return the runs that Ray knows, in order of their numbers. Raises RayUnreachableError."""
        client = self._client()
        try:
            jobs = client.list_jobs()
        except (*SILENT, RuntimeError) as error:
            raise self._unreachable(error) from None
        return sorted((job for job in jobs if (job.metadata or {}).get(NAME_KEY) == self.work.name and self._number(job)), key=self._number)

    def live(self) -> JobDetails | None:
        """Return the run that has not ended, if there is one. Raises RayUnreachableError."""
        return next((job for job in self.all() if not job.status.is_terminal()), None)

    def last_fire(self) -> datetime | None:
        """Return the latest time that a run was started for; None where Ray knows no run. Raises RayUnreachableError."""
        return max((fire_of(job) for job in self.all()), default=None)

    def start(self, fire: datetime) -> str:
        """Submit the run for a time and return its id. Raises StillRunningError, AlreadyDoneError, ScheduleError or RayUnreachableError."""
        known = self.all()
        when = f"{fire:%Y-%m-%d %H:%M} UTC"
        for job in known:
            if not job.status.is_terminal():
                raise StillRunningError(f"{job.submission_id} is still {job.status.value.lower()}, so no run was started for {when}")
        if known and fire_of(known[-1]) >= fire:
            raise AlreadyDoneError(f"{known[-1].submission_id} was already started for {fire_of(known[-1]):%Y-%m-%d %H:%M} UTC")
        run_id = f"{self.work.name}-{self._number(known[-1]) + 1 if known else 1:06d}"
        try:
            return self._client().submit_job(
                entrypoint=self.work.entrypoint, submission_id=run_id, metadata={NAME_KEY: self.work.name, FIRE_KEY: fire.isoformat()},
                runtime_env={"working_dir": self.work.working_dir, "env_vars": dict(self.work.env)},
            )  # fmt: skip
        except SILENT as error:
            raise self._unreachable(error) from None
        except RuntimeError as error:
            if "already exists" in str(error):
                raise StillRunningError(f"another scheduler has just started {run_id}") from None
            raise ScheduleError(f"Ray at {self.address} refused {run_id}: {error}") from None

    def follow(self, run_id: str, *, stop: threading.Event) -> Ended | None:
        """Wait for the end of a run, through times in which Ray does not answer; None where `stop` was set before, and the run goes on."""
        while not stop.is_set():
            try:
                job = self._client().get_job_info(run_id)
                if job.status.is_terminal():
                    return self._ended(run_id, job)
            except (*SILENT, RayUnreachableError):
                self._connected = None
            except RuntimeError as error:
                raise ScheduleError(f"Ray at {self.address} does not know {run_id} any more: {error}") from None
            stop.wait(POLL_S)
        return None

    def _ended(self, run_id: str, job: JobDetails) -> Ended:
        if job.status == JobStatus.SUCCEEDED:
            return Ended(run_id=run_id, status=job.status.value, code=0)
        tail = "\n".join(self._client().get_job_logs(run_id).splitlines()[-TAIL_LINES:])
        message = " ".join((job.message or "").split("Last available logs")[0].split())
        return Ended(run_id=run_id, status=job.status.value, code=job.driver_exit_code or 1, message=message, tail=tail)

    def _client(self) -> JobSubmissionClient:
        if self._connected is None:
            try:
                self._connected = JobSubmissionClient(self.address)
            except (*SILENT, RuntimeError, ValueError) as error:
                raise self._unreachable(error) from None
        return self._connected

    def _unreachable(self, error: Exception) -> RayUnreachableError:
        self._connected = None
        return RayUnreachableError(
            f"--address {self.address}: expected Ray's job server, such as http://127.0.0.1:8265, with the token that it asks for "
            f"(RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH); found: {' '.join(str(error).split())[:500]}"
        )

    def _number(self, job: JobDetails) -> int:
        match = re.fullmatch(rf"{re.escape(self.work.name)}-(\d+)", job.submission_id or "")
        return int(match[1]) if match else 0


def fire_of(job: JobDetails) -> datetime:
    """Return the time that a run was started for."""
    return datetime.fromisoformat((job.metadata or {})[FIRE_KEY]).astimezone(UTC)
