"""The Ray plan: one tiny row per shard, a pool of workers that take a shard each, a feed task beside every worker.

Nothing here imports torch: the driver only plans, and a worker imports it when it starts.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import ray
import ray.data
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, NodeDiedError, ObjectLostError, OutOfMemoryError, RaySystemError, WorkerCrashedError

from pipeline.cluster import FEED_CPUS, Pool
from pipeline.config import Align, ConfigError
from pipeline.estimate import Probe
from pipeline.images import Limits
from pipeline.ledger import DEATHS_BEFORE_CARE, Attempt
from pipeline.progress import Board, Counts, Status
from pipeline.registry import PackSource
from pipeline.settings import CHUNK_SAMPLES, Running, ShardResult, ShardTask, WorkerSettings
from pipeline.shards import Shard

if TYPE_CHECKING:
    from pipeline.align import Aligner, CentreSquare
    from pipeline.feed import Chunk, Opened
    from pipeline.methods import Methods

CHUNKS_AHEAD = 4
MOST_DEATHS = 40
STORAGE_TRIES = 3
STORAGE_WAIT_S = 2.0
LOST_DEVICE_EXIT = 70


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How shards are read; the same for all."""

    limits: Limits
    image_ext: str
    align: Align
    first: int
    """Edit only this many samples of a shard; 0 edits all."""


class StreamError(RuntimeError):
    """A shard cannot be finished; the message says which and why."""


class FeedEndedError(RuntimeError):
    """A feed ended before its shard did."""


FEED_DIED = (FeedEndedError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError, RaySystemError)


def run_shards(
    shards: Sequence[Shard], *, pool: Pool, settings: WorkerSettings, reading: Reading, board: ActorHandle[Board]
) -> Iterator[ShardResult]:
    """Edit all shards on the Ray that this process is connected to; yield results as shards are committed.

    Raises ConfigError where a worker cannot run what was asked for.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it says so at every start
    context.execution_no_progress_timeout_s = -1  # to Ray Data a long shard looks like a standstill
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # one shard in work per worker is full use
    rows = [{"url": shard.url, "name": shard.name} for shard in shards]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        StreamWorker,
        fn_constructor_kwargs={"settings": settings, "reading": reading, "board": board},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.min_workers, max_size=pool.max_workers, initial_size=pool.max_workers, max_tasks_in_flight_per_actor=1
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )  # Ray Data restarts actors, and repeats what they were at, without end: `Attempt` counts
    for row in dataset.iter_rows():
        result = ShardResult.from_json(row["result"])
        if result.refusal:
            raise ConfigError(result.refusal)
        yield result


def make_board(shards: int) -> ActorHandle[Board]:
    """Start the actor that workers report to; it lives where the driver lives and outlives any worker."""
    return cast("ActorHandle[Board]", ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board).remote(shards))


def read_board(board: ActorHandle[Board]) -> Status:
    """Return what the workers reported. Raises an error of Ray's while the cluster goes away."""
    try:
        return cast(Status, ray.get(board.status.remote(), timeout=10))
    except GetTimeoutError:
        return Status(counts=Counts(), seconds=0.0)


class StreamWorker:
    """The actor of the pool: gets one shard a call."""

    def __init__(self, *, settings: WorkerSettings, reading: Reading, board: ActorHandle[Board]) -> None:
        self._settings, self._reading, self._board = settings, reading, board
        self._methods: Methods | None = None

    def __call__(self, row: dict[str, Sequence[object]]) -> dict[str, list[str]]:
        """Edit the one shard of this batch."""
        shard = Shard(url=str(row["url"][0]), name=str(row["name"][0]))
        failures = deaths = 0
        while deaths < MOST_DEATHS:
            try:
                result = self._attempt(shard)
            except ConfigError as error:
                result = ShardResult(shard=shard.name, committed=False, counts=Counts(), refusal=str(error))
            except OSError as error:  # the storage, not the shard: what a shard holds never raises
                failures += 1
                if failures == STORAGE_TRIES:
                    raise StreamError(f"shard {shard.name}: storage failed {failures} times: {type(error).__name__}: {error}") from error
                _say(f"shard {shard.name}: the storage failed, trying again: {type(error).__name__}: {error}")
                time.sleep(STORAGE_WAIT_S * failures)
                continue
            if result is not None:
                return {"result": [result.to_json()]}
            deaths += 1
        raise StreamError(f"shard {shard.name}: {deaths} processes died while reading it, so the fault is not in one sample; see Ray's log")

    def _attempt(self, shard: Shard) -> ShardResult | None:
        """Edit the shard, or return None where the process died that reads it."""
        with ExitStack() as stack:
            attempt = stack.enter_context(Attempt(self._settings.output, shard.name, run_id=self._settings.run_id))
            with _Feed(shard, attempt, self._settings, self._reading) as feed:  # first: it starts while the networks are loaded
                try:
                    return self._edit(feed, attempt)
                except FEED_DIED as error:
                    _say(f"shard {shard.name}: the process that reads it died, at sample {feed.position} or after ({type(error).__name__})")
                    attempt.mark(feed.next_indices(), alone=feed.one_by_one)
                    stack.pop_all()  # the mark stays, as that of a worker that died
                    return None

    def _edit(self, feed: _Feed, attempt: Attempt) -> ShardResult:
        from pipeline.batch import DeviceLostError
        from pipeline.worker import edit_shard, prepare

        # Not in __init__: an error there would reach the user as a dead actor.
        self._methods = self._methods or prepare(self._settings)
        report = functools.partial(self._report, attempt.shard)
        try:
            return edit_shard(feed, attempt, methods=self._methods, settings=self._settings, report=report)
        except DeviceLostError as error:
            _say(f"shard {attempt.shard}: the GPU is lost ({error}); this worker ends and Ray starts another")
            os._exit(LOST_DEVICE_EXIT)

    def _report(self, shard: str, opened: Opened, counts: Counts) -> None:
        if counts == Counts():
            self._board.open.remote(shard, opened.samples)
        else:
            self._board.report.remote(shard, counts)


class _Feed:
    """Iterate over what a feed task yields, and know where it is; leaving the context ends the task."""

    def __init__(self, shard: Shard, attempt: Attempt, settings: WorkerSettings, reading: Reading) -> None:
        self.one_by_one = attempt.deaths >= DEATHS_BEFORE_CARE
        self.position = 0
        self._task = ShardTask(
            url=shard.url,
            name=shard.name,
            limits=reading.limits,
            image_ext=reading.image_ext,
            align=reading.align,
            first=reading.first,
            killers=attempt.killers,
            only=settings.wish.only(shard.name, attempt.storage),
            one_by_one=self.one_by_one,
        )
        self._needed = None if self._task.only is None else sorted(self._task.only)
        self._pack = settings.source

    def __enter__(self) -> _Feed:
        streaming = _feed.options(num_returns="streaming", _generator_backpressure_num_objects=CHUNKS_AHEAD)
        self._references = cast(ray.ObjectRefGenerator, streaming.remote(self._task, self._pack))
        return self

    def __exit__(self, *error: object) -> None:
        ray.cancel(self._references)

    def __iter__(self) -> Iterator[Opened | Chunk]:
        samples = 0
        for reference in self._references:
            item = cast("Opened | Chunk", ray.get(reference))
            samples = samples if isinstance(item, list) else item.samples
            yield item
            self.position += len(item) if isinstance(item, list) else 0
        if self.position != samples:
            raise FeedEndedError(f"{self.position} of {samples} samples came")

    def next_indices(self) -> Sequence[int]:
        """Return the indices of the samples that were read when the feed ended early."""
        places = slice(self.position, self.position + (1 if self.one_by_one else CHUNK_SAMPLES))
        return range(places.start, places.stop) if self._needed is None else self._needed[places]


@ray.remote(num_cpus=FEED_CPUS, max_retries=0)
def _feed(task: ShardTask, pack: PackSource) -> Iterator[Opened | Chunk]:
    from pipeline.feed import read_shard

    yield from read_shard(task, _aligner(pack, task.align))


@functools.lru_cache(maxsize=2)
def _aligner(pack: PackSource, align: Align) -> Aligner | CentreSquare:
    """Load the landmark network once per process; with a pack that has none, a library finds the faces of photos."""
    import torch

    from models.pack import Pack
    from pipeline.align import Aligner, CentreSquare
    from pipeline.landmarks import FaceLibrary

    torch.set_num_threads(1)
    loaded = Pack.load(pack.path_or_url())
    if align == "centre":
        return CentreSquare(size=loaded.size)
    return Aligner(loaded.landmarks() if "landmarks" in loaded.info.networks else FaceLibrary(), size=loaded.size)


def _say(text: str) -> None:
    print(f"WARNING: {text}", file=sys.stderr, flush=True)


@ray.remote(max_retries=0)
def _choose_running(settings: WorkerSettings) -> tuple[Running, tuple[str, ...]]:
    from pipeline.worker import prepare

    methods = prepare(settings)
    return methods.running, methods.backend_notes


def choose_running(settings: WorkerSettings, pool: Pool) -> tuple[Running, tuple[str, ...]]:
    """Find out on a worker's device what `auto` comes to; return that, and notes that say why."""
    reference = _choose_running.options(num_cpus=pool.cpus, num_gpus=pool.gpus).remote(settings)
    return ray.get(reference)


@ray.remote(max_retries=0)
def _probe(settings: WorkerSettings, task: ShardTask) -> Probe:
    from pipeline.probe import probe_batch

    return probe_batch(settings, task, _aligner(settings.source, task.align))


def probe(shard: Shard, *, settings: WorkerSettings, reading: Reading, pool: Pool) -> Probe:
    """Try a batch of a shard on a worker's device; return what it took."""
    task = ShardTask(url=shard.url, name=shard.name, limits=reading.limits, image_ext=reading.image_ext, align=reading.align)
    return ray.get(_probe.options(num_cpus=pool.cpus, num_gpus=pool.gpus).remote(settings, task))


@ray.remote(num_cpus=FEED_CPUS, max_retries=1)
def _report(output: str, documents: str) -> str:
    written: str = importlib.import_module(documents).write_documents(output)
    return written


def report_remotely(output: str, documents: str) -> str:
    """Write report and card by a module in a process that has the networks' libraries loaded already; return the report's URL."""
    return ray.get(_report.remote(output, documents))
