"""One job from plan to report: lock the output, see what is left to do, stream the shards, sum up. Runs in the driver, without torch."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from pipeline.backend_names import AUTO
from pipeline.cluster import Pool, connect, disconnect, offer_token, plan_pool
from pipeline.config import ConfigError
from pipeline.estimate import Probe, estimate
from pipeline.kept_running import Kept, keep, read_kept
from pipeline.lock import WORK, OutputError
from pipeline.plan import JobPlan
from pipeline.progress import ProgressDisplay, duration
from pipeline.record import Outcome, compact, metrics_of, summarise, write_record
from pipeline.registry import SCHEME
from pipeline.resume import Output, Reprocess, ResumePlan, open_output, plan_resume
from pipeline.settings import WorkerSettings
from pipeline.shard_list import LATER_ROUND
from pipeline.shards import Shard
from pipeline.storage import Storage
from pipeline.summary import mean_scores
from pipeline.tracking import Tracker

MOST_ROUNDS = 3
NO_LANDMARKS = (
    "this pack has no landmark network: faces are cut out by the landmarks of the samples, else found by the library of the extra `faces`; "
    "where pictures show no faces, say --align centre"
)


def say(text: str) -> None:
    """Tell the user something, on standard error: standard output holds the result alone."""
    print(f"edit: {text}", file=sys.stderr, flush=True)


class Course(Protocol):
    """What a job does beside its first round of shards."""

    documents: str
    """Module whose `write_documents` writes report, card and Croissant file."""

    def trial(self, plan: JobPlan) -> JobPlan:
        """Return a plan that a batch can be tried by, before anything is known of the data."""
        ...

    def prepare(self, plan: JobPlan, storage: Storage, *, pool: Pool, settings: WorkerSettings) -> None:
        """Get ready what workers need, with Ray at hand, before the first shard."""
        ...

    def after(self, plan: JobPlan, storage: Storage) -> JobPlan | None:
        """Return what to do when all shards of `plan` are committed; None where nothing is left. Needs no Ray."""
        ...

    def record(self, plan: JobPlan, storage: Storage) -> Mapping[str, object]:
        """Return what run.json shall say beside what it always says."""
        ...


class OneRound:
    """The course of a job that is done when its shards are."""

    documents = "pipeline.documents"

    def trial(self, plan: JobPlan) -> JobPlan:
        """Return the plan itself."""
        return plan

    def prepare(self, plan: JobPlan, storage: Storage, *, pool: Pool, settings: WorkerSettings) -> None:
        """Do nothing."""

    def after(self, plan: JobPlan, storage: Storage) -> JobPlan | None:
        """Return None."""
        return None

    def record(self, plan: JobPlan, storage: Storage) -> Mapping[str, object]:
        """Return nothing."""
        return {}


ONE_ROUND = OneRound()


def dry_run(plan: JobPlan) -> dict[str, object]:
    """Check the output too, print what would be done and return it."""
    existed = Storage(plan.output).exists()
    storage = open_output(plan.output)
    try:
        plan = _as_before(plan, storage)
        resume = _resume(plan, storage)
    finally:
        storage.remove_if_empty(WORK)
        if not existed:
            storage.remove_if_empty("")
    _announce(plan, resume)
    return {"dry_run": True, "shards": len(plan.shards), "todo": len(resume.todo), "done": len(resume.done), "output": plan.output}


def plan_job(plan: JobPlan, course: Course = ONE_ROUND) -> dict[str, object]:
    """Check the output too, try one batch of what is left to do on a worker, say what the whole would take and return it.

    Raises ConfigError where no sample of that batch can be used.
    """
    offer_token()
    found = dry_run(plan)
    storage = Storage(plan.output)
    todo = _resume(_as_before(plan, storage), storage).todo if storage.exists() else plan.shards
    if not todo:
        return {**found, "plan": True}
    try:
        cluster = connect()
        pool = plan_pool(plan.config, cluster, shards=len(todo), of=len(plan.shards), worker_bytes=plan.worker_bytes)
        say(f"Ray at {cluster.address}: {cluster.cpus:g} cores, {cluster.gpus:g} GPUs; {pool}; trying a batch of {todo[0].url}")
        tried = _probed(course.trial(plan), todo[0], pool)
    finally:
        disconnect()
    if not tried.samples:
        raise ConfigError(f"--plan: none of the first {tried.failed} samples of {todo[0].url} can be used: {tried.reason}")
    whole = estimate(tried, todo, workers=pool.max_workers)
    say(
        f"about {whole.samples} samples in {len(todo)} shards, {tried.failed} of the {tried.samples + tried.failed} tried could not be used"
    )
    say(f"about {whole.images} pictures at {whole.images_per_s:.3g} images/s by {pool.max_workers} worker(s): {duration(whole.seconds)}")
    say(f"about {whole.output_bytes / 1e9:.3g} GB to write; {whole.worker_bytes / 2**30:.2f} GiB of memory for a worker")
    return {**found, "plan": True, **dataclasses.asdict(whole), "workers": pool.max_workers}


def _probed(plan: JobPlan, shard: Shard, pool: Pool) -> Probe:
    from pipeline.stream import Reading, probe

    config = plan.config
    reading = Reading(limits=config.limits, image_ext=config.image_ext, align=config.align, first=0)
    return probe(shard, settings=_settings(plan, "plan", pool), reading=reading, pool=pool)


def run_job(plan: JobPlan, course: Course = ONE_ROUND) -> dict[str, object]:
    """Do everything that is not finished yet, write run.json, report and card, and return the summary.

    Raises OutputError where the output is in use or was made from something else, ConfigError where the cluster or the pack on it does
    not fit. An interrupt leaves committed shards as they are.
    """
    offer_token()
    clock = time.monotonic()
    with Output(plan.output) as output, ExitStack() as stack:
        for note in output.notes:
            say(note)
        plan = _as_before(plan, output.storage)
        job = _Job(plan, output, course=course, stack=stack)
        job.work()
        run_id = job.conclude()
        seconds = round(time.monotonic() - clock, 1)
        report = output.storage.url_of("report.html")
        return {**summarise(job.plan, output.storage, job.outcome), "seconds_total": seconds, "report": report, "mlflow_run_id": run_id}


class _Job:
    """One run of a job over an output that is locked."""

    def __init__(self, plan: JobPlan, output: Output, *, course: Course, stack: ExitStack) -> None:
        self.plan, self.outcome = plan, Outcome(started=datetime.now(UTC))
        self._output, self._storage, self._course, self._stack = output, output.storage, course, stack
        self._tracker: Tracker | None = None
        self._pool: Pool | None = None

    def work(self) -> None:
        """Do all rounds; Ray and the tracking run are there from the first shard that is left to do."""
        plan: JobPlan | None = self.plan
        while plan is not None:
            first = plan is self.plan
            resume = _resume(plan, self._storage, first=first)
            _announce(plan, resume, first=first)
            if resume.todo:
                plan = self._ready(plan, resume)
                self.plan = plan if first else self.plan
                self._output.start(resume)
                self._round(plan, resume.todo)
            following = self._course.after(plan, self._storage)
            plan = None if following is None else following.run_by(self.plan.running)

    def conclude(self) -> str | None:
        """Write record and documents where anything was done, or where an earlier run did not come to write them; return MLflow's id."""
        storage = self._storage
        if self._tracker is None and storage.exists("run.json") and storage.exists("report.html"):
            say("nothing to do")
            self._output.finish()
            return None
        self._track()
        self._output.finish()
        scores = mean_scores(storage)
        write_record(self.plan, storage, self.outcome, scores=scores, more=self._course.record(self.plan, storage))
        self._write_documents()
        metrics = metrics_of(summarise(self.plan, storage, self.outcome), scores)
        assert self._tracker is not None
        return self._tracker.finish(metrics, artifacts=[storage.url_of("report.html"), storage.url_of("run.json")])

    def _track(self) -> None:
        if self._tracker is None:
            self._tracker = self._stack.enter_context(_tracked(self.plan))

    def _ready(self, plan: JobPlan, resume: ResumePlan) -> JobPlan:
        """Start or join Ray, find out what `auto` comes to, and how wide to run; return the plan by that."""
        if self._pool is None:
            self._stack.callback(disconnect)
        cluster = connect()
        if plan.running.open:
            plan = _chosen(plan, self._output, shards=len(resume.todo), outcome=self.outcome)
        self._track()
        pool = plan_pool(plan.config, cluster, shards=len(resume.todo), of=len(plan.shards), worker_bytes=plan.worker_bytes)
        if self._pool is None:
            say(f"Ray at {cluster.address}: {cluster.cpus:g} cores, {cluster.gpus:g} GPUs; {pool}")
            workers = replace(plan.config.workers, threads=pool.threads)  # in later rounds too, which have fewer shards
            plan = replace(plan, config=replace(plan.config, workers=workers))
            keep(self._storage, Kept(running=plan.running, threads=pool.threads))
            self._course.prepare(plan, self._storage, pool=pool, settings=_settings(plan, self._output.run_id, pool))
        self.outcome.workers = {**dataclasses.asdict(pool), "address": cluster.address}
        self._pool = pool
        return plan

    def _round(self, plan: JobPlan, shards: Sequence[Shard]) -> None:
        """Do shards, and again those whose files were found missing in the end."""
        assert self._pool is not None
        for _ in range(MOST_ROUNDS):
            _round(plan, self._output, shards, pool=self._pool, outcome=self.outcome)
            withdrawn = self._output.finish()
            shards = [shard for shard in plan.shards if shard.name in withdrawn]
            if len(shards) < len(withdrawn):
                raise OutputError(f"files of {', '.join(sorted(withdrawn))} are gone from {plan.output}; the same command makes them again")
            if not shards:
                break
            say(f"files of {len(shards)} shards are gone: doing them again")

    def _write_documents(self) -> None:
        """Write report, card and Croissant file, where Ray is at hand in a process that has the networks' libraries loaded already."""
        from pipeline.stream import report_remotely

        if self._pool is None:
            importlib.import_module(self._course.documents).write_documents(self.plan.output)
        else:
            report_remotely(self.plan.output, self._course.documents)


def _resume(plan: JobPlan, storage: Storage, *, first: bool = True) -> ResumePlan:
    """Say what is left of a round; what later rounds ask follows from the first, so a change there is nobody's mistake."""
    reprocess: Reprocess | None = "all" if plan.config.preview else plan.config.reprocess
    if not first and reprocess != "all":
        reprocess = "failed or changed" if reprocess == "failed" else "changed"
    return plan_resume(storage, plan.shards, config_hash=plan.config_hash, pack_hash=plan.pack_hash, reprocess=reprocess)


def _as_before(plan: JobPlan, storage: Storage) -> JobPlan:
    """Let `auto`, and the threads of a worker where nobody says, stand for what the output was begun with."""
    kept = None if plan.config.preview or plan.config.reprocess == "all" else read_kept(storage)
    if kept is None:
        return plan
    asked, chosen, told = plan.running, plan.running, list[str]()
    for flag in ("backend", "precision", "batch_size"):
        if getattr(asked, flag) == AUTO:
            chosen = replace(chosen, **{flag: getattr(kept.running, flag)})
            told.append(f"--{flag} auto goes on with {getattr(kept.running, flag)}")
    if told:
        say(f"{' and '.join(told)}, which this output was begun with")
    config = plan.config
    if config.workers.threads is None:
        plan = replace(plan, config=replace(config, workers=replace(config.workers, threads=kept.threads)))
    return plan.run_by(chosen)


def _chosen(plan: JobPlan, output: Output, *, shards: int, outcome: Outcome) -> JobPlan:
    """Let a worker find out what `auto` comes to on its device."""
    from pipeline.stream import choose_running

    pool = plan_pool(plan.config, connect(), shards=shards, of=len(plan.shards), worker_bytes=plan.worker_bytes)
    chosen, notes = choose_running(_settings(plan, output.run_id, pool), pool)
    for flag, asked, found in (
        ("precision", plan.config.precision, chosen.precision), ("batch_size", plan.config.batch_size, chosen.batch_size),
    ):  # fmt: skip
        if asked == AUTO:
            notes = (*notes, f"--{flag} auto takes {found}")
    for note in notes:
        say(note)
    outcome.notes = notes
    return plan.run_by(chosen)


def _announce(plan: JobPlan, resume: ResumePlan, *, first: bool = True) -> None:
    if first:
        _introduce(plan)
    if resume.done:
        say(f"{len(resume.done)} shards are finished already, {len(resume.todo)} left to do")
    if resume.redo:
        say(f"{len(resume.redo)} finished shards are done again")
    absent = [name for name in resume.absent if LATER_ROUND not in name]
    if absent and first:
        say(f"{len(absent)} finished shards are not in this input; they stay")


def _introduce(plan: JobPlan) -> None:
    config = plan.config
    say(f"{len(plan.shards)} shards of {config.input or 'no input'} -> {plan.output}")
    say(plan.wish.summary())
    methods = f"{config.inverter} -> {config.editor}" if plan.instructions else config.inverter
    pinned = f" is {plan.pack_url}" if plan.pack_url.startswith(SCHEME) else ""
    say(f"pack {plan.pack.name}{pinned} ({plan.pack_hash[:12]}, {plan.pack.size} px), {methods}")
    if config.align == "face" and "landmarks" not in plan.pack.networks:
        say(NO_LANDMARKS)
    say(f"config {plan.config_hash[:12]}: {json.dumps(compact(config), ensure_ascii=False)}")


@contextmanager
def _tracked(plan: JobPlan) -> Iterator[Tracker]:
    """Open a run in MLflow; close it as failed or killed when the block raises."""
    tracker = Tracker(plan.config.tracking, output=plan.output, home=plan.home)
    flat = {name: value for name, value in dataclasses.asdict(plan.config).items() if name not in ("tracking", "instructions")}
    texts = {f"instruction.{one.name}": f"{one.source} -> {one.target} @{one.strength:g}" for one in plan.instructions}
    tracker.start({**flat, **texts, "config_hash": plan.config_hash, "pack_sha256": plan.pack_hash, "pack_name": plan.pack.name})
    try:
        yield tracker
    except KeyboardInterrupt:
        tracker.finish({}, status="KILLED")
        raise
    except BaseException:
        tracker.finish({}, status="FAILED")
        raise


def _round(plan: JobPlan, output: Output, shards: Sequence[Shard], *, pool: Pool, outcome: Outcome) -> None:
    from pipeline.stream import Reading, make_board, read_board, run_shards

    config = plan.config
    board = make_board(len(shards))
    reading = Reading(limits=config.limits, image_ext=config.image_ext, align=config.align, first=config.preview)
    with ProgressDisplay(lambda: read_board(board)):
        for result in run_shards(shards, pool=pool, settings=_settings(plan, output.run_id, pool), reading=reading, board=board):
            outcome.results.append(result)
            for note in (*result.notes, *([result.damage] if result.damage else [])):
                say(f"shard {result.shard}: {note}")
        outcome.seconds += read_board(board).seconds


def _settings(plan: JobPlan, run_id: str, pool: Pool) -> WorkerSettings:
    config = plan.config
    return WorkerSettings(
        pack=plan.pack_url,
        inverter=config.inverter,
        inverter_settings=dict(config.inverter_settings),
        editor=config.editor,
        editor_settings=dict(config.editor_settings),
        device=pool.device,
        part=min(1.0, pool.gpus) or pool.threads / max(pool.node_cpus, pool.threads),
        threads=pool.threads,
        running=plan.running,
        allow_lpips_download=config.allow_lpips_download,
        wish=plan.wish,
        output=plan.output,
        run_id=run_id,
        config_hash=plan.config_hash,
        pack_hash=plan.pack_hash,
        registry=plan.registry,
    )
