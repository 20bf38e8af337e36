"""Measure the renderer: portraits per second at several sizes, against the floors in floors.yaml. Prints JSON; exit code 1 below a floor.

python -m benchmarks.render [--threads 2] [--seconds 3]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import jsonargparse
import torch

from benchmarks.measure import conclude
from portraits import render_aligned, sample_parameters

SIZES = (64, 128, 256)
BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        threads: Threads of torch.
        seconds: How long each size is measured.
    """

    threads: int = 2
    seconds: float = 3.0


def images_per_s(size: int, *, seconds: float) -> float:
    """Render aligned portraits of mixed attributes for `seconds` and return how many a second took."""
    p = sample_parameters(BATCH * 64 * 64 // (size * size), torch.Generator().manual_seed(0))
    render_aligned(p, size=size)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        render_aligned(p, size=size)
        done += len(p)
    return done / (time.perf_counter() - start)


def main() -> int:
    """Measure every size; return 1 when one is below its floor."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    torch.set_num_threads(options.threads)
    found = {f"images_per_s_{size}": images_per_s(size, seconds=options.seconds) for size in SIZES}
    return conclude("render", found, about={"threads": options.threads})


if __name__ == "__main__":
    sys.exit(main())
