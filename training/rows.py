"""Which rows of a data set make up the global batch of a step: a pure function of the step, so that a training can go on anywhere.

N rows of the data set, B rows of a batch, S shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def sample_rows(step: int, *, batch: int, n: int, seed: int, window: int | None = None, shard_rows: Sequence[int] | None = None) -> Tensor:
    """Return the rows (B,) int64 of the global batch at `step`, from 0 on.

    The steps walk through one epoch after the other without a gap: every epoch holds each of the `n` rows once, in an order that
    depends on (seed, epoch) alone; a batch may straddle epochs, or hold several. With `window`, the shards (`shard_rows`: rows of each,
    in order) are shuffled and rows only move within `window` consecutive ones, so that what is read together lies together.

    Raises ValueError where the arguments contradict each other.
    """
    if step < 0 or batch < 1 or n < 1:
        raise ValueError(f"sample_rows: step {step}, batch {batch}, n {n}: expected a step of 0 or more, and 1 or more rows")
    bounds = _bounds(n, window=window, shard_rows=shard_rows)
    parts: list[Tensor] = []
    first, end = step * batch, (step + 1) * batch
    while first < end:
        epoch, place = divmod(first, n)
        taken = min(n - place, end - first)
        parts.append(_order(seed, epoch, n=n, window=window or 0, bounds=bounds)[place : place + taken])
        first += taken
    return torch.cat(parts)


def _bounds(n: int, *, window: int | None, shard_rows: Sequence[int] | None) -> tuple[int, ...]:
    if window is None:
        return ()
    if window < 1 or not shard_rows or sum(shard_rows) != n:
        found = "none" if shard_rows is None else f"{len(shard_rows)} shards with {sum(shard_rows)} rows"
        raise ValueError(f"sample_rows: window {window}: expected 1 or more shards, and shard_rows that add up to {n} rows; found {found}")
    return tuple(shard_rows)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, *, n: int, window: int, bounds: tuple[int, ...]) -> Tensor:
    """Return the order (N,) of an epoch; the cache spares all but the first step of an epoch the O(n)."""
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    if not bounds:
        return torch.randperm(n, generator=generator)
    rows_S = torch.arange(n).split(bounds)
    order_S = torch.randperm(len(bounds), generator=generator).tolist()
    windows = [torch.cat([rows_S[shard] for shard in order_S[i : i + window]]) for i in range(0, len(order_S), window)]
    return torch.cat([rows[torch.randperm(len(rows), generator=generator)] for rows in windows])
