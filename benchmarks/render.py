"""Measure the renderer: portraits per second at several sizes, against the floors in floors.yaml. Prints JSON; exit code 1 below a floor.

python -m benchmarks.render [--threads 2] [--seconds 3]
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import torch
import yaml

from portraits import render_aligned, sample_parameters

FLOORS = Path(__file__).with_name("floors.yaml")
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
    floors: dict[str, float] = yaml.safe_load(FLOORS.read_text())["render"]
    found = {f"images_per_s_{size}": round(images_per_s(size, seconds=options.seconds), 1) for size in SIZES}
    below = [name for name, floor in floors.items() if found[name] < floor]
    print(json.dumps({"benchmark": "render", "threads": options.threads, **found, "floors": floors, "below_floor": below}))
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
