"""What all benchmarks share: forms that take turns, and one line of JSON at the end, held against benchmarks/floors.yaml."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import yaml

FLOORS = Path(__file__).with_name("floors.yaml")


def seconds(run: Callable[[], object]) -> float:
    """Return the time of a run, to the end of what it started on a GPU."""
    finish()
    start = time.perf_counter()
    run()
    finish()
    return time.perf_counter() - start


def finish() -> None:
    """Wait for the GPU, where torch uses one."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ratio(slow: Callable[[], object], fast: Callable[[], object], *, rounds: int) -> float:
    """Return the median time of one over that of the other; the first turn warms both up."""
    turns = [(seconds(slow), seconds(fast)) for _ in range(rounds + 1)][1:]
    return statistics.median(turn[0] for turn in turns) / statistics.median(turn[1] for turn in turns)


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def missed(found: Mapping[str, float], floors: Mapping[str, float], *, at_most: Collection[str] = ()) -> list[str]:
    """Return the figures that miss their floor, which for those in `at_most` is a ceiling; what was not measured misses none."""
    beyond = {name: found[name] > floor if name in at_most else found[name] < floor for name, floor in floors.items() if name in found}
    return [name for name, wrong in beyond.items() if wrong]


def conclude(
    benchmark: str,
    found: Mapping[str, float],
    *,
    about: Mapping[str, object] | None = None,
    at_most: Collection[str] = (),
    judged: bool = True,
) -> int:
    """Print the figures, what they are about, and the floors of this benchmark that they miss; return the exit code, 1 if any.

    Floors are those of two CPU cores, or of a GPU where they say so: figures of another device are not `judged`.
    """
    floors: dict[str, float] = yaml.safe_load(FLOORS.read_text())[benchmark] if judged else {}
    wrong = missed(found, floors, at_most=at_most)
    rounded = {name: round(value, 3) for name, value in found.items()}
    unmeasured = [name for name in floors if name not in found]
    print(json.dumps({"benchmark": benchmark, **(about or {}), **rounded, "floors": floors, "unmeasured": unmeasured, "missed": wrong}))
    return 1 if wrong else 0
