"""What a job would take: a worker tries one batch of the first shard, and the rest is reckoned from that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.drawn_shards import DrawnShard
from pipeline.shard_list import GENERATED, Shard
from pipeline.storage import Storage

TAR_BLOCK = 512
SHARD_OVERHEAD_BYTES = 20_000
"""Of manifest, moments and ledger record of a shard, and per row of its manifest below."""
ROW_BYTES = 150


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a batch took on a worker, and how many samples its shard has in how many bytes."""

    samples: int
    failed: int
    seconds: float
    images: int
    bytes_written: int
    worker_bytes: int
    shard_samples: int
    shard_bytes: int
    reason: str = ""
    """Why a sample failed, if one did."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job comes to."""

    samples: int
    images: int
    seconds: float
    images_per_s: float
    output_bytes: int
    worker_bytes: int


def estimate(probe: Probe, shards: Sequence[Shard], *, workers: int) -> Estimate:
    """Reckon from one batch: samples by the bytes of the shards, seconds by the workers that there would be.

    Aligning runs beside the networks, and its own time is not in it. A picture that is drawn counts as one that is edited.
    """
    drawn = sum(DrawnShard.of(shard.url).count for shard in shards if shard.url.startswith(GENERATED))
    read_bytes = sum(Storage(shard.url).size() for shard in shards if not shard.url.startswith(GENERATED))
    samples = round(read_bytes * probe.shard_samples / max(1, probe.shard_bytes))
    good = round(samples * probe.samples / max(1, probe.samples + probe.failed))
    per_sample = probe.images / max(1, probe.samples)
    images = round(good * per_sample) + drawn
    worth = good + drawn / max(1.0, per_sample)  # in samples
    rounds = math.ceil(len(shards) / max(1, workers)) / max(1, len(shards))  # a shard is one worker's
    seconds = probe.seconds / max(1, probe.samples) * worth * max(rounds, 1 / max(1, workers))
    written = probe.bytes_written / max(1, probe.samples) * worth + len(shards) * SHARD_OVERHEAD_BYTES + images * ROW_BYTES
    return Estimate(
        samples=samples + drawn, images=images, seconds=seconds, images_per_s=images / seconds if seconds else 0.0,
        output_bytes=round(written), worker_bytes=probe.worker_bytes,
    )  # fmt: skip


def tar_bytes(members: Sequence[bytes]) -> int:
    """Return what members take in a tar: a header each, and whole blocks."""
    return sum(TAR_BLOCK + math.ceil(len(data) / TAR_BLOCK) * TAR_BLOCK for data in members)
