"""What the user sees while the job runs: done/total samples, images/s, failures, time left.

Workers report to one `Board`; the driver polls it and draws a bar on a terminal or writes a line every ten seconds elsewhere.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_INTERVAL_S = 10.0
BAR_INTERVAL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How far one shard, or the whole job, is."""

    samples: int = 0
    """Samples that are finished: edited or quarantined."""
    images: int = 0
    """Edited pictures."""
    failed: int = 0
    """Samples that went to quarantine."""
    begun: float = 0.0
    """What is done of the samples at hand, in samples: inverters that optimise take long over a batch."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            samples=self.samples + other.samples, images=self.images + other.images, failed=self.failed + other.failed,
            begun=self.begun + other.begun,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Total:
    """How many samples there are: counted, or estimated from the shards that were opened so far."""

    samples: int
    exact: bool


@dataclass(frozen=True, kw_only=True)
class Status:
    """What there is to show: counts, seconds since the first worker began its first shard, and the total where it is known."""

    counts: Counts
    seconds: float
    total: Total | None = None

    def describe(self) -> str:
        """Say images/s, failures and time left."""
        done = self.counts.samples + self.counts.begun
        if done == 0:
            return "starting workers" if self.seconds == 0 else "first batch"
        first = self.counts.samples == 0
        rate = f"first batch, {done:.1f} inverted" if first else f"{self.counts.images / self.seconds:.1f} images/s"
        parts = [rate, f"{self.counts.failed} failed"]
        if self.total:
            left = max(self.total.samples - done, 0)
            parts.append(f"{duration(left * self.seconds / done)} left" if left else "all edited")
        return ", ".join(parts)

    def line(self) -> str:
        """Return the whole as one line for a log."""
        of = f"/{'' if self.total.exact else '~'}{self.total.samples}" if self.total else ""
        return f"edit: {self.counts.samples}{of} samples, {self.describe()}"


class Board:
    """Collect what the workers report; a shard that is done again replaces what its last attempt said."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._counts: dict[str, Counts] = {}
        self._samples: dict[str, int] = {}
        self._began: float | None = None

    def open(self, shard: str, samples: int) -> None:
        """Take note of a shard that is begun, and how many samples it holds."""
        self._began = self._began or time.monotonic()
        self._samples[shard] = samples
        self._counts[shard] = Counts()

    def report(self, shard: str, counts: Counts) -> None:
        """Take the counts of a shard so far."""
        self._counts[shard] = counts

    def status(self) -> Status:
        """Return the sum over all shards; those that were not opened yet are taken for average ones."""
        seconds = time.monotonic() - self._began if self._began else 0.0
        return Status(counts=sum(self._counts.values(), Counts()), seconds=seconds, total=self._total())

    def _total(self) -> Total | None:
        known = len(self._samples)
        if not known:
            return None
        samples = sum(self._samples.values())
        return Total(samples=round(samples * max(self._shards, known) / known), exact=known >= self._shards)


class ProgressDisplay:
    """Show what `poll` answers until the block ends; never raises into the job.

    Writes to standard error, so that standard output keeps the result alone.
    """

    def __init__(self, poll: Callable[[], Status], *, stream: TextIO | None = None) -> None:
        self._poll = poll
        self._stream = stream or sys.stderr
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> ProgressDisplay:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=15)

    def _run(self) -> None:
        if self._stream.isatty():
            self._draw()
        else:
            self._write()

    def _draw(self) -> None:
        columns = (TextColumn("edit"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=Console(file=self._stream), refresh_per_second=4) as bar:
            task = bar.add_task("edit", total=None, text="starting workers")
            for status in self._statuses(BAR_INTERVAL_S):
                total = status.total.samples if status.total else None
                bar.update(task, completed=status.counts.samples, total=total, text=status.describe())

    def _write(self) -> None:
        for status in self._statuses(PLAIN_INTERVAL_S):
            print(status.line(), file=self._stream, flush=True)

    def _statuses(self, interval_s: float) -> Iterator[Status]:
        last = False
        while not last:
            last = self._stop.wait(interval_s)
            try:
                status = self._poll()
            except Exception:  # the engine is going away, which its own errors explain better than a display
                continue
            yield status


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
