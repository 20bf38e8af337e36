"""The worker: takes one shard, edits its samples in fixed batches and commits the result. No Ray in here: it runs anywhere.

Batches are formed inside a shard and in its order, so what is written does not depend on who works when.
"""

from __future__ import annotations

import functools
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from models.optimisation import Stepwise
from models.pack import Pack
from pipeline.batch import BatchResult, Finished, ShardWork, run_batch
from pipeline.config import ConfigError
from pipeline.feed import Chunk, Opened, Ready
from pipeline.frechet import ShardMoments
from pipeline.ledger import Attempt, Identity, read_record
from pipeline.manifest import OK, QUARANTINED, Row, failed_row, to_parquet
from pipeline.methods import Methods, load_methods
from pipeline.progress import Counts
from pipeline.sample import FailedSample, ShardFailure
from pipeline.settings import ShardResult, WorkerSettings
from pipeline.shards import QuarantineWriter, ShardWriter
from pipeline.stage_clock import added, with_rest
from trt_engines.graphs import BackendError

STEPS_INTERVAL_S = 1.0


def prepare(settings: WorkerSettings) -> Methods:
    """Load the networks onto the device. Raises ConfigError where the pack is another, or an instruction or the backend is of no use."""
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    pack = Pack.load(settings.source.path_or_url(), device=settings.device)
    if pack.sha256 != settings.pack_hash:
        versions = f"version {pack.sha256[:12]}, the driver {settings.pack_hash[:12]}"
        raise ConfigError(f"--pack {settings.pack}: this machine has {versions}; give both the same pack, by URL for example")
    try:
        methods = load_methods(
            pack,
            inverter=settings.inverter,
            inverter_settings=settings.inverter_settings,
            editor=settings.editor if settings.wish.instructions else None,
            editor_settings=settings.editor_settings,
            device=settings.device,
            allow_lpips_download=settings.allow_lpips_download,
            running=settings.running,
            instructions=settings.wish.instructions,
            part=settings.part,
        )
    except BackendError as error:
        raise ConfigError(f"{error} (machine {socket.gethostname()})") from error
    try:
        methods.scorer.check(settings.wish.instructions)
        for instruction in settings.wish.instructions:
            for text in (instruction.source, instruction.target):
                pack.clip().tokens(text)
    except ValueError as error:
        raise ConfigError(f"--instructions: {error}") from error
    return methods


Report = Callable[[Opened, Counts], None]


def edit_shard(
    source: Iterable[Opened | Chunk], attempt: Attempt, *, methods: Methods, settings: WorkerSettings, report: Report
) -> ShardResult:
    """Edit and write one shard from what the feed yields, and commit it. `report` hears of every batch."""
    start = time.monotonic()
    clock = _Waiting(source)
    opened = next(clock)
    assert isinstance(opened, Opened)
    report(opened, Counts())
    identity = Identity(input_sha256=opened.sha256, config_hash=settings.config_hash, pack_hash=settings.pack_hash)
    work = settings.wish.begin(attempt.shard, attempt.storage)
    files = _ShardFiles(attempt, methods, work)
    committed = False
    if not attempt.adopt(identity):
        with files:
            for batch in _batches(clock, work.window(methods.running.pictures), files=files, alone=frozenset(attempt.suspects)):
                attempt.mark([ready.sample.index for ready in batch], alone=len(batch) == 1)
                told = functools.partial(_report_begun, report, opened, files.counts, len(batch))
                with _steps_told(methods, work.edits, told):
                    files.add(run_batch(batch, methods=methods, work=work))
                report(opened, files.counts)
        committed = files.commit(identity, opened.damage)
    counts = files.counts if committed else _counts_of(attempt)
    report(opened, counts)
    seconds = time.monotonic() - start
    return ShardResult(
        shard=attempt.shard,
        committed=committed,
        counts=counts,
        damage=str(opened.damage or ""),
        notes=opened.notes,
        features=dict(methods.scorer.features),
        backend=methods.names.backend,
        backend_notes=methods.backend_notes,
        seconds=seconds,
        stages=with_rest(files.seconds, waited_s=clock.seconds, total_s=seconds),
    )


@contextmanager
def _steps_told(methods: Methods, edits: int | None, told: Callable[[float], None]) -> Iterator[None]:
    """Tell what share of a batch's steps is done, once a second at most, while methods that optimise work on it.

    The inverter works once on a batch, the editor `edits` times; all of these count as equally long. Where nobody knows how often,
    nothing is told.
    """
    times: tuple[tuple[object, int], ...] = () if edits is None else ((methods.inverter, 1), (methods.editor, edits))
    stepwise: list[Stepwise] = [method for method, _ in times if isinstance(method, Stepwise)]
    parts = sum(count for method, count in times if isinstance(method, Stepwise))
    last, ended = time.monotonic(), 0

    def on_step(done: int, total: int, _: Tensor) -> None:
        nonlocal last, ended
        share = min(1.0, (ended + done / total) / parts)
        ended += done >= total
        if time.monotonic() - last >= STEPS_INTERVAL_S:
            last = time.monotonic()
            told(share)

    for one in stepwise:
        one.on_step = on_step
    try:
        yield
    finally:
        for one in stepwise:
            one.on_step = None


def _report_begun(report: Report, opened: Opened, counts: Counts, batch: int, share: float) -> None:
    report(opened, replace(counts, begun=batch * share))


def _counts_of(attempt: Attempt) -> Counts:
    """Return the counts of the attempt that was first."""
    record = read_record(attempt.storage, attempt.shard)
    counts = record.counts if record else {}
    return Counts(samples=counts.get("samples", 0), images=counts.get("images", 0), failed=counts.get("quarantined", 0))


def _batches(source: Iterator[Opened | Chunk], size: int, *, files: _ShardFiles, alone: frozenset[int]) -> Iterator[list[Ready]]:
    """Yield batches of `size` in the order of the shard, and hand failures to `files`; samples in `alone` get a batch of their own."""
    batch: list[Ready] = []
    for chunk in source:
        assert isinstance(chunk, list)
        for entry in chunk:
            if isinstance(entry, FailedSample):
                files.add(BatchResult(samples=[entry]))
            elif entry.sample.index in alone:
                yield [entry]
            else:
                batch.append(entry)
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


class _Waiting:
    """Iterate, and measure how long that takes."""

    def __init__(self, source: Iterable[Opened | Chunk]) -> None:
        self._source = iter(source)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Opened | Chunk]:
        return self

    def __next__(self) -> Opened | Chunk:
        start = time.monotonic()
        try:
            return next(self._source)
        finally:
            self.seconds += time.monotonic() - start


class _ShardFiles:
    """The files of one attempt at a shard; tars appear with their first sample, so that none is ever empty."""

    def __init__(self, attempt: Attempt, methods: Methods, work: ShardWork) -> None:
        self._attempt, self._methods, self._work = attempt, methods, work
        self._stack = ExitStack()
        self._tars: dict[str, ShardWriter] = {}
        self._failed: QuarantineWriter | None = None
        self._moments: ShardMoments | None = None
        self._rows: list[Row] = []
        self._tally: dict[str, float] = {}
        self.counts = Counts()
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> _ShardFiles:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def add(self, result: BatchResult) -> None:
        """Write the samples of a batch."""
        self.seconds = added(self.seconds, result.seconds)
        for sample in result.samples:
            if isinstance(sample, Finished):
                self._write(sample)
            else:
                self._quarantine(sample)
        if result.moments is not None:
            self._moments = self._moments.merge(result.moments) if self._moments else result.moments

    def _write(self, sample: Finished) -> None:
        rows = sample.rows
        if sample.members:
            key = self._tar(sample.place).write_free(sample.key, sample.members)
            rows = tuple(row | {"made": key} if row.get("made") else row for row in rows)
        self._rows += rows
        self._tally = added(self._tally, sample.tally)
        self.counts += Counts(samples=sample.samples, images=len(rows) if sample.images is None else sample.images)

    def _tar(self, place: str) -> ShardWriter:
        if place not in self._tars:
            path = self._attempt.path(self._name(f"{place}/{{}}.tar"))
            self._tars[place] = self._stack.enter_context(ShardWriter(self._attempt.storage, path))
        return self._tars[place]

    def _quarantine(self, failed: FailedSample) -> None:
        if self._failed is None:
            path = self._attempt.path(self._name("quarantine/{}.tar"))
            self._failed = self._stack.enter_context(QuarantineWriter(self._attempt.storage, path))
        self._failed.write_failed(failed)
        self._rows.append(failed_row(failed, self._methods.names))
        self.counts += Counts(samples=1, failed=1)

    def commit(self, identity: Identity, damage: ShardFailure | None) -> bool:
        """Write what is known only at the end and commit; after the context was left."""
        tars = {self._name(f"{place}/{{}}.tar"): tar for place, tar in self._tars.items()}
        if self._failed is not None:
            tars[self._name("quarantine/{}.tar")] = self._failed
        digests = {name: tar.finished.sha256 for name, tar in tars.items()}
        rows = sorted(self._rows, key=lambda row: int(row["index"]))  # type: ignore[arg-type]
        self._attempt.write(self._name("manifests/{}.parquet"), to_parquet(rows, self._work.schema))
        if self._moments is not None:
            self._attempt.write(self._name("moments/{}.npz"), self._moments.to_npz())
        if damage is not None:
            entry = {"shard": damage.shard, "stage": damage.stage, "reason": str(damage)}
            self._attempt.write(self._name("quarantine/{}.json"), (json.dumps(entry, ensure_ascii=False, indent=1) + "\n").encode())
        counts = {"samples": self.counts.samples if self._work.counts_samples else 0, "images": self.counts.images}
        failed = self.counts.failed if self._work.counts_samples else 0
        counts |= {"quarantined": failed, **{name: int(count) for name, count in self._tally.items()}}
        statuses = {OK: self.counts.samples - self.counts.failed, QUARANTINED: self.counts.failed}
        return self._attempt.commit(identity, counts=counts, statuses=statuses, damage=str(damage or ""), digests=digests)

    def _name(self, kind: str) -> str:
        return kind.format(self._attempt.shard)
