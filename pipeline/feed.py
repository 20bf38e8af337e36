"""Feed: read a shard, decode its pictures, cut out the faces (or the centred squares); on a CPU, in chunks, in the order of the shard.

Runs as a streaming Ray task beside the worker that edits: chunks wait in Ray's object store, four at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from torch import Tensor

from pipeline.align import Aligner, CentreSquare
from pipeline.drawn_shards import SEED_EXT, DrawnShard
from pipeline.images import ImageHWC, decode_image
from pipeline.landmarks import supplied
from pipeline.sample import FailedSample, Sample, SampleFailure, ShardFailure
from pipeline.settings import CHUNK_SAMPLES, ShardTask
from pipeline.shard_list import GENERATED
from pipeline.shards import ShardReader

CHUNK_PIXEL_BYTES = 64 << 20  # of decoded pictures
KILLED = "worker"
KILLED_REASON = "every process that worked on this sample was killed, by what the sample holds or for lack of memory"
NO_PICTURE: ImageHWC = np.zeros((0, 0, 3), dtype=np.uint8)
"""Stands for the picture of a sample that is yet to be drawn."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What is known of a shard before its first sample; `damage` says where it stops being readable."""

    sha256: str = ""
    samples: int = 0
    damage: ShardFailure | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A sample whose face was found, or whose centre was, and cut out."""

    sample: Sample
    aligned_HWC: ImageHWC


Chunk = list[Ready | FailedSample]


def read_shard(task: ShardTask, aligner: Aligner | CentreSquare) -> Iterator[Opened | Chunk]:
    """Yield what is known of the shard, then its samples in chunks, in order.

    Nothing that a file holds makes it raise; an OSError means that the storage failed.
    """
    if task.url.startswith(GENERATED):
        yield from _unseen(task)
        return
    try:
        reader = ShardReader(task.url, limits=task.limits, image_ext=task.image_ext).__enter__()
    except ShardFailure as failure:
        yield Opened(damage=failure)
        return
    with reader:
        count = min(len(reader), task.first) if task.first else len(reader)
        needed = count if task.only is None else sum(index < count for index in task.only)
        yield Opened(sha256=reader.sha256, samples=needed, damage=reader.damage, notes=reader.notes)
        buffer = _Buffer(aligner, samples=1 if task.one_by_one else CHUNK_SAMPLES)
        for item in islice(reader, count):
            if task.only is not None and item.index not in task.only:
                continue
            buffer.add(_decoded(item, task))
            if buffer.full:
                yield buffer.flush()
        if buffer.entries:
            yield buffer.flush()


def _unseen(task: ShardTask) -> Iterator[Opened | Chunk]:
    """Yield the samples of a shard that no file holds: the worker draws their pictures."""
    keys = DrawnShard.of(task.url).keys()[: task.first or None]
    yield Opened(sha256=hashlib.sha256(task.url.encode()).hexdigest(), samples=len(keys))
    entries: Chunk = []
    for index, (key, seed) in enumerate(keys):
        sample = Sample(key=key, shard=task.name, index=index, members={SEED_EXT: str(seed).encode()}, image_ext="")
        killed = index in task.killers
        entries.append(sample.failed(SampleFailure(KILLED, KILLED_REASON)) if killed else Ready(sample=sample, aligned_HWC=NO_PICTURE))
    size = 1 if task.one_by_one else CHUNK_SAMPLES
    yield from (entries[start : start + size] for start in range(0, len(entries), size))


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """A sample with its picture and the landmarks that it brings, if any and where they are asked for."""

    sample: Sample
    image_HWC: ImageHWC
    landmarks_52: Tensor | None


def _decoded(item: Sample | FailedSample, task: ShardTask) -> _Decoded | FailedSample:
    if isinstance(item, FailedSample):
        return item
    if item.index in task.killers:
        return item.failed(SampleFailure(KILLED, KILLED_REASON))
    try:
        image = decode_image(item.image, task.limits)
        return _Decoded(sample=item, image_HWC=image, landmarks_52=supplied(item, image) if task.align == "face" else None)
    except SampleFailure as failure:
        return item.failed(failure)
    except Exception as error:  # one picture that a decoder chokes on must not cost its shard
        return item.failed(SampleFailure("decode", f"{type(error).__name__}: {error}"))


class _Buffer:
    """Gather decoded samples, then find all their faces in one pass."""

    def __init__(self, aligner: Aligner | CentreSquare, *, samples: int) -> None:
        self.aligner, self.samples = aligner, samples
        self.entries: list[_Decoded | FailedSample] = []
        self.pixel_bytes = 0

    @property
    def full(self) -> bool:
        return len(self.entries) >= self.samples or self.pixel_bytes >= CHUNK_PIXEL_BYTES

    def add(self, entry: _Decoded | FailedSample) -> None:
        self.entries.append(entry)
        self.pixel_bytes += entry.image_HWC.nbytes if isinstance(entry, _Decoded) else 0

    def flush(self) -> Chunk:
        entries, self.entries, self.pixel_bytes = self.entries, [], 0
        found = iter(self._align([entry for entry in entries if isinstance(entry, _Decoded)]))
        chunk: Chunk = []
        for entry in entries:
            if isinstance(entry, FailedSample):
                chunk.append(entry)
                continue
            sample, aligned = entry.sample, next(found)
            chunk.append(sample.failed(aligned) if isinstance(aligned, SampleFailure) else Ready(sample=sample, aligned_HWC=aligned))
        return chunk

    def _align(self, entries: list[_Decoded]) -> list[ImageHWC | SampleFailure]:
        try:
            return self.aligner.align_all([entry.image_HWC for entry in entries], [entry.landmarks_52 for entry in entries])
        except Exception as error:  # one picture that the network chokes on must not cost its neighbours
            if len(entries) == 1:
                return [SampleFailure("align", f"{type(error).__name__}: {error}")]
            return [self._align([entry])[0] for entry in entries]
