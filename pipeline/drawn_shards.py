"""Shards that no file holds: their samples are drawn from the generator, each from a seed of its own. No torch.

A shard of them is named by a URL that says all about it, "generated:first=0,count=500,truncation=0.7", and read like any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.shard_list import GENERATED, Shard

PATTERN = re.compile(rf"{GENERATED}first=(\d+),count=(\d+),truncation=([0-9.e-]+)")
DRAWN_NAME = re.compile(r"drawn-\d{5,}")
"""Names of such shards."""
SEED_EXT = "seed"
"""Member of a drawn sample that holds its seed."""


@dataclass(frozen=True, kw_only=True)
class DrawnShard:
    """`count` pictures from the seeds `first` on, at a truncation from above 0 (all near the mean) to 1 (as the generator learnt)."""

    first: int
    count: int
    truncation: float

    @property
    def url(self) -> str:
        """Return the name that says it all."""
        return f"{GENERATED}first={self.first},count={self.count},truncation={self.truncation!r}"

    @classmethod
    def of(cls, url: str) -> DrawnShard:
        """Read what `url` returned. Raises ValueError."""
        match = PATTERN.fullmatch(url)
        if not match:
            raise ValueError(f"{url}: expected {GENERATED}first=N,count=N,truncation=X")
        return cls(first=int(match[1]), count=int(match[2]), truncation=float(match[3]))

    def keys(self) -> list[tuple[str, int]]:
        """Return key and seed of each sample."""
        return [(f"drawn-{seed:09d}", seed) for seed in range(self.first, self.first + self.count)]


def shards(*, count: int, first: int, truncation: float, shard_size: int) -> tuple[Shard, ...]:
    """Return the shards of `count` drawn pictures."""
    parts = [DrawnShard(first=first + i, count=min(shard_size, count - i), truncation=truncation) for i in range(0, count, shard_size)]
    return tuple(Shard(url=part.url, name=f"drawn-{number:05d}") for number, part in enumerate(parts))
