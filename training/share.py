"""Which part of a step's global batch a worker takes, and the random numbers that belong to it.

All randomness is a function of (seed, step, place in the global batch): not of the number of workers, nor of what happened before. So
one worker and several see the same pictures with the same noise, and a training that goes on from a checkpoint sees what it would have.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from training.rows import sample_rows


def mixed(*numbers: int) -> int:
    """Return a seed of 63 bits that depends on all numbers and their order."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True, kw_only=True)
class Share:
    """The places `first` to `first + count` of the global batch of `batch` samples at `step`."""

    seed: int
    step: int
    batch: int
    first: int
    count: int
    rank: int = 0
    world: int = 1

    @property
    def together(self) -> slice:
        """Return the places that all workers' shares have at the same time."""
        start = self.first - self.rank * self.count
        return slice(start, start + self.world * self.count)

    @property
    def places(self) -> Tensor:
        """Return this share's places in the global batch, (count,)."""
        return torch.arange(self.first, self.first + self.count)

    def own(self, whole: Tensor) -> Tensor:
        """Cut this share out of something that was drawn for the global batch."""
        return whole[self.first : self.first + self.count]

    def stream(self, salt: int = 0) -> torch.Generator:
        """Return the step's random stream, the same for every share: draw for the whole batch and take `own`."""
        return torch.Generator().manual_seed(mixed(self.seed, self.step, salt))

    def streams(self, salt: int = 0) -> list[torch.Generator]:
        """Return one random stream per own sample, for draws too large to make for the whole batch."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds(salt)]

    def seeds(self, salt: int = 0) -> tuple[int, ...]:
        """Return the seed of each own sample's stream."""
        return tuple(mixed(self.seed, self.step, salt, place) for place in self.places.tolist())

    def rows(self, n: int) -> Tensor:
        """Return which of a data set's `n` rows are this share's: every epoch visits each row once, in a new order."""
        return self.own(sample_rows(self.step, batch=self.batch, n=n, seed=self.seed))


def shares(*, seed: int, step: int, batch: int, rank: int, world: int, accumulate: int) -> list[Share]:
    """Return a worker's shares of a step, one per accumulated backward pass. Raises ValueError where the batch does not divide."""
    parts = world * accumulate
    if batch % parts:
        raise ValueError(
            f"a global batch of {batch} cannot be split over {world} worker(s) x {accumulate} accumulation step(s): "
            f"expected a multiple of {parts}"
        )
    count = batch // parts
    return [
        Share(seed=seed, step=step, batch=batch, first=(a * world + rank) * count, count=count, rank=rank, world=world)
        for a in range(accumulate)
    ]
