"""Measure on a worker's device what the generator's own pictures are like."""

from __future__ import annotations

import ray

from pipeline.cluster import Pool
from pipeline.settings import WorkerSettings


@ray.remote(max_retries=1)
def _measure(settings: WorkerSettings) -> bytes:
    from augmentation.realism import of_generator
    from pipeline.worker import prepare

    return of_generator(prepare(settings)).to_npz()


def measure_realism(settings: WorkerSettings, pool: Pool) -> bytes:
    """Return the file of the statistics (augmentation/realism.py)."""
    found: bytes = ray.get(_measure.options(num_cpus=pool.cpus, num_gpus=pool.gpus).remote(settings))
    return found
