"""Pictures that are nobody's: drawn from the generator, each from a seed of its own.

A shard of them is named by a URL that says all about it, "generated:first=0,count=500,truncation=0.7", and read like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.stylegan2 import Generator
from pipeline.shard_list import GENERATED, Shard

PATTERN = re.compile(rf"{GENERATED}first=(\d+),count=(\d+),truncation=([0-9.]+)")
SEED_EXT = "seed"
"""Member of a drawn sample that holds its seed."""


@dataclass(frozen=True, kw_only=True)
class DrawnShard:
    """`count` pictures from the seeds `first` on, at a truncation of 0 (all equal the mean) to 1 (as the generator learnt)."""

    first: int
    count: int
    truncation: float

    @property
    def url(self) -> str:
        """Return the name that says it all."""
        return f"{GENERATED}first={self.first},count={self.count},truncation={self.truncation:g}"

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


def draw(generator: Generator, seeds: Sequence[int], *, truncation: float, device: str) -> Tensor:
    """Return the pictures of seeds, (len(seeds), 3, H, W), RGB about [-1, 1]: w is moved to its mean by 1 - truncation (StyleGAN B)."""
    z_BD = torch.stack([torch.randn(generator.style_dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    w_BD = generator.mapping(z_BD.to(device, generator.conv1.conv.weight.dtype))
    if truncation != 1:
        w_BD = _mean(generator, w_BD).lerp(w_BD, truncation)
    return generator.synthesis(generator.repeat(w_BD))


def _mean(generator: Generator, like_BD: Tensor) -> Tensor:
    return generator.mean_latent().to(like_BD)[None]
