"""Try one batch of a shard on a worker, without writing anything."""

from __future__ import annotations

import time
from dataclasses import replace

from pipeline.align import Aligner, CentreSquare
from pipeline.batch import BatchResult, Finished, run_batch
from pipeline.batch_probe import cuda_peak, resident_peak
from pipeline.drawn_shards import DrawnShard
from pipeline.estimate import Probe, tar_bytes
from pipeline.feed import Ready, read_shard
from pipeline.sample import FailedSample
from pipeline.settings import ShardTask, WorkerSettings
from pipeline.shard_list import GENERATED
from pipeline.shards import ShardReader
from pipeline.storage import Storage
from pipeline.worker import prepare

LONG_S = 30.0
"""A batch that takes longer is not run again for a time without its first steps."""


def _size_of(task: ShardTask) -> tuple[int, int]:
    """Return samples and bytes of a shard; of one that no file holds, each counts as a byte."""
    if task.url.startswith(GENERATED):
        count = DrawnShard.of(task.url).count
        return count, count
    with ShardReader(task.url, limits=task.limits, image_ext=task.image_ext) as reader:
        return len(reader), reader.size_bytes


def probe_batch(settings: WorkerSettings, task: ShardTask, aligner: Aligner | CentreSquare) -> Probe:
    """Return what the first batch of a shard takes. Raises ConfigError as `prepare` does, ShardFailure where there is no shard."""
    methods = prepare(settings)
    shard_samples, shard_bytes = _size_of(task)
    chunks = [chunk for chunk in read_shard(replace(task, first=methods.running.pictures), aligner) if isinstance(chunk, list)]
    ready = [entry for chunk in chunks for entry in chunk if isinstance(entry, Ready)]
    failed = [entry for chunk in chunks for entry in chunk if isinstance(entry, FailedSample)]
    results: list[BatchResult] = []
    work = settings.wish.begin(task.name, Storage(settings.output))

    def run() -> float:
        start = time.perf_counter()
        results.append(run_batch(ready, methods=methods, work=work))
        return time.perf_counter() - start

    worker_bytes = seconds = 0.0
    if ready:
        times: list[float] = []
        worker_bytes = (resident_peak if methods.device == "cpu" else cuda_peak)(lambda: times.append(run()))
        seconds = times[0] if times[0] > LONG_S else run()
        failed += [sample for sample in results[-1].samples if isinstance(sample, FailedSample)]
    finished = [sample for sample in results[-1].samples if isinstance(sample, Finished)] if results else []
    return Probe(
        samples=sum(sample.samples for sample in finished), failed=len(failed),
        images=sum(len(sample.rows) if sample.images is None else sample.images for sample in finished),
        seconds=seconds, worker_bytes=int(worker_bytes), shard_samples=shard_samples,
        bytes_written=sum(tar_bytes([*sample.members.values()]) for sample in finished), shard_bytes=shard_bytes,
        reason=f"{failed[0].stage}: {failed[0].reason}" if failed else "",
    )  # fmt: skip
