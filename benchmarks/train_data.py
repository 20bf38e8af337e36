"""Measure how fast training reads pictures from shards, and how long its steps wait for them. Prints JSON; exit code 1 below a floor.

python -m benchmarks.train_data [--seconds 5]

The step that is simulated takes exactly as long as 100 images/s allow. `busy_percent_SIZE` is the share of time in which the loop did
not wait for data, from the first batch on (which takes `first_batch_s_SIZE`, once), `images_per_s_SIZE` how fast one thread reads and
decodes batches in random order.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import conclude
from pipeline.shards import ShardWriter
from pipeline.storage import Storage
from portraits import render_aligned, sample_parameters
from training.data import to_bytes
from training.prefetch import Prefetcher
from training.shards import ShardPictures, sample_rows

COUNTS = {64: 2000, 256: 500}
SHARD_PICTURES = 250
RENDERED_AT_ONCE = 25
BATCH = 16
STEP_IMAGES_PER_S = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        seconds: How long each figure is measured.
    """

    seconds: float = 5.0


def write_shards(folder: Path, *, size: int, count: int) -> None:
    """Write aligned portraits as PNG, as `edit_dataset` leaves them."""
    p = sample_parameters(count, torch.Generator().manual_seed(0))
    for shard, first in enumerate(range(0, count, SHARD_PICTURES)):
        with ShardWriter(Storage(str(folder)), f"{shard:06d}.tar") as writer:
            for start in range(first, min(first + SHARD_PICTURES, count), RENDERED_AT_ONCE):
                image_BHWC = to_bytes(render_aligned(p.slice(slice(start, start + RENDERED_AT_ONCE)), size=size)).permute(0, 2, 3, 1)
                for row, image_HWC in enumerate(image_BHWC.numpy(), start):
                    buffer = io.BytesIO()
                    Image.fromarray(image_HWC).save(buffer, "PNG")
                    writer.write(f"{row:06d}", {"aligned.png": buffer.getvalue()})


def measure(data: ShardPictures, *, seconds: float) -> dict[str, float]:
    """Return images/s of one thread, the percentage of time that a training loop does not wait, and what the first batch takes."""

    def load(step: int) -> Tensor:
        return data.pictures(sample_rows(step, batch=BATCH, n=len(data), seed=0))

    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        load(done)
        done += 1
    images_per_s = done * BATCH / (time.perf_counter() - start)
    with Prefetcher(load, done) as loaded:
        next(loaded)
        first_batch_s, start = loaded.waited_s, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            time.sleep(BATCH / STEP_IMAGES_PER_S)
            next(loaded)
        waited_s = loaded.waited_s - first_batch_s
    return {
        "images_per_s": round(images_per_s, 1),
        "busy_percent": round(100 * (1 - waited_s / elapsed), 2),
        "first_batch_s": round(first_batch_s, 3),
    }


def main() -> int:
    """Measure every size; return 1 when one is below its floor."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    for size, count in COUNTS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_shards(Path(folder), size=size, count=count)
            start = time.perf_counter()
            data = ShardPictures.open(folder, size=size)
            found[f"opened_s_{size}"] = round(time.perf_counter() - start, 3)
            found |= {f"{name}_{size}": value for name, value in measure(data, seconds=options.seconds).items()}
    return conclude("train_data", found, about={"batch": BATCH})


if __name__ == "__main__":
    sys.exit(main())
