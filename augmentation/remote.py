"""Measure on a worker's device what the generator's own pictures are like."""

from __future__ import annotations

import ray

from pipeline.cluster import Pool
from pipeline.settings import WorkerSettings


@ray.remote(max_retries=1)
def _measure(settings: WorkerSettings) -> bytes:
    from augmentation.realism import of_generator
    from pipeline.worker import prepare

    methods = prepare(settings)

    def embed(image_BCHW):  # type: ignore[no-untyped-def]
        return methods.scorer.embed(image_BCHW)

    return of_generator(methods.pack.generator(), embed, device=methods.device, pack=methods.pack.sha256).to_npz()


def measure_realism(settings: WorkerSettings, pool: Pool) -> bytes:
    """Return the file of the statistics (augmentation/realism.py)."""
    found: bytes = ray.get(_measure.options(num_cpus=pool.cpus, num_gpus=pool.gpus).remote(settings))
    return found
