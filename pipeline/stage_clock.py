"""Where the time of a run goes: seconds by stage, and which stage an error came from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

STAGES = ("wait", "invert", "edit", "score", "encode", "write")
"""What a worker does with a shard, in order: wait for samples to be read and aligned, run networks, make PNG files, write and commit."""


class StageError(Exception):
    """A stage failed; `cause` says how."""

    def __init__(self, stage: str, cause: Exception) -> None:
        super().__init__(stage, cause)
        self.stage, self.cause = stage, cause


class StageClock:
    """Add up the seconds of stages; on a GPU a stage has to end with a copy to the CPU for its time to be its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Count the block's time for a stage. Raises StageError for whatever the block raises."""
        start = time.monotonic()
        try:
            yield
        except Exception as error:
            raise StageError(stage, error) from error
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start


def added(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of both by stage."""
    return {stage: first.get(stage, 0.0) + second.get(stage, 0.0) for stage in {**first, **second}}


def with_rest(stages: Mapping[str, float], *, waited_s: float, total_s: float) -> dict[str, float]:
    """Return the seconds of all stages of a shard that took `total_s`; what no other stage has is writing."""
    found = {**dict.fromkeys(STAGES, 0.0), **stages, "wait": waited_s}
    others = sum(seconds for stage, seconds in found.items() if stage != "write")
    return found | {"write": max(0.0, total_s - others)}
