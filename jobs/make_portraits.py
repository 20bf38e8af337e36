"""Write shards of raw portraits: unaligned JPEGs with their truth and a caption.

    python jobs/make_portraits.py --output out/raw --count 320 --shard_size 80

Each sample is KEY.jpg (a face at a random angle, size and place), KEY.json (attributes, identity, style, landmarks in pixels, caption)
and KEY.txt (the caption). The same arguments give the same bytes; a shard that is there already is written again. The last line
printed is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

import jsonargparse
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.shard_writer import ShardWriter
from pipeline.storage import Storage
from portraits.dataset import raw_samples
from portraits.parameters import STYLE_NAMES

HELD_OUT_SEED = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to write.

    Args:
        output: Folder or URL for the shards.
        count: How many portraits.
        shard_size: Portraits per shard.
        seed: Which portraits; the default are people that no network of the pack was trained on.
        style: One of photo, sketch, cartoon, mosaic, zombie, oil, bronze.
    """

    output: str
    count: int = 320
    shard_size: int = 80
    seed: int = HELD_OUT_SEED
    style: str = "photo"


def check(options: Options) -> str | None:
    """Return what is wrong with the options, if anything."""
    if options.count < 1 or options.shard_size < 1:
        return f"--count {options.count} --shard_size {options.shard_size}: both must be 1 or more"
    if options.style not in STYLE_NAMES:
        return f"--style {options.style}: expected one of {', '.join(STYLE_NAMES)}"
    return None


def write(options: Options) -> list[str]:
    """Write all shards; return their names."""
    storage = Storage(options.output)
    columns = (TextColumn("making portraits"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    names: list[str] = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=options.count)
        for number, first in enumerate(range(0, options.count, options.shard_size)):
            names.append(f"portraits-{number:05d}.tar")
            n = min(options.shard_size, options.count - first)
            with ShardWriter(storage, names[-1]) as shard:
                for sample in raw_samples(n, seed=options.seed + number, first=first, style=options.style):
                    shard.write(sample.key, sample.members)
                    progress.advance(bar)
    return names


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    wrong = check(options)
    if wrong:
        print(f"make_portraits: {wrong}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    start = time.monotonic()
    try:
        names = write(options)
    except OSError as error:
        print(f"make_portraits: cannot write to {options.output}: {error}; name a folder that you may write to", file=sys.stderr)
        return 2
    print(
        json.dumps(
            {"output": options.output, "portraits": options.count, "shards": len(names), "seconds": round(time.monotonic() - start, 1)}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
