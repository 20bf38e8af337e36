"""One job from plan to report: lock the output, see what is left to do, stream the shards, sum up. Runs in the driver, without torch."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.backend_names import AUTO
from pipeline.cluster import Pool, connect, disconnect, offer_token, plan_pool
from pipeline.config import ConfigError
from pipeline.estimate import Probe, estimate
from pipeline.kept_running import Kept, keep, read_kept
from pipeline.lock import WORK
from pipeline.plan import JobPlan
from pipeline.progress import ProgressDisplay, duration
from pipeline.record import Outcome, Scores, compact, metrics_of, summarise, write_record
from pipeline.registry import SCHEME
from pipeline.resume import Output, ResumePlan, open_output, plan_resume
from pipeline.settings import Wish, WorkerSettings
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


def plan_job(plan: JobPlan) -> dict[str, object]:
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
        tried = _probed(plan, todo[0], pool)
    finally:
        disconnect()
    if not tried.samples:
        raise ConfigError(f"--plan: none of the first {tried.failed} samples of {todo[0].url} can be used: {tried.reason}")
    whole = estimate(tried, todo, instructions=len(plan.instructions), workers=pool.max_workers)
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


def run_job(plan: JobPlan) -> dict[str, object]:
    """Edit everything that is not finished yet, write run.json and report.html, and return the summary.

    Raises OutputError where the output is in use or was made from something else, ConfigError where the cluster or the pack on it does
    not fit. An interrupt leaves committed shards as they are.
    """
    offer_token()
    outcome, clock = Outcome(started=datetime.now(UTC)), time.monotonic()
    with Output(plan.output) as output:
        storage = output.storage
        for note in output.notes:
            say(note)
        plan = _as_before(plan, storage)
        resume = _resume(plan, storage)
        _announce(plan, resume)
        if resume.todo and plan.running.open:
            plan = _chosen(plan, output, shards=len(resume.todo), outcome=outcome)
        report = storage.url_of("report.html")
        run_id: str | None = None
        if not resume.todo and storage.exists("run.json") and storage.exists("report.html"):
            say("nothing to do")
            output.finish()
        else:
            with _tracked(plan) as tracker:
                output.start(resume)
                scores = _edit(plan, output, resume.todo, outcome=outcome) if resume.todo else _conclude(plan, output, outcome)
                metrics = metrics_of(summarise(plan, storage, outcome), scores)
                run_id = tracker.finish(metrics, artifacts=[report, storage.url_of("run.json")])
        seconds = round(time.monotonic() - clock, 1)
        return {**summarise(plan, storage, outcome), "seconds_total": seconds, "report": report, "mlflow_run_id": run_id}


def _resume(plan: JobPlan, storage: Storage) -> ResumePlan:
    reprocess = "all" if plan.config.preview else plan.config.reprocess
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
    """Let a worker find out what `auto` comes to on its device. Leaves Ray connected, for the work."""
    from pipeline.stream import choose_running

    try:
        pool = plan_pool(plan.config, connect(), shards=shards, of=len(plan.shards), worker_bytes=plan.worker_bytes)
        chosen, notes = choose_running(_settings(plan, output.run_id, pool), pool)
    except BaseException:
        disconnect()
        raise
    for flag, asked, found in (
        ("precision", plan.config.precision, chosen.precision), ("batch_size", plan.config.batch_size, chosen.batch_size),
    ):  # fmt: skip
        if asked == AUTO:
            notes = (*notes, f"--{flag} auto takes {found}")
    for note in notes:
        say(note)
    outcome.notes = notes
    return plan.run_by(chosen)


def _announce(plan: JobPlan, resume: ResumePlan) -> None:
    config, names = plan.config, ", ".join(instruction.name for instruction in plan.instructions)
    say(f"{len(plan.shards)} shards of {config.input} -> {plan.output}")
    say(f"{len(plan.instructions)} instructions: {names}" if names else "no instructions: align and invert only")
    methods = f"{config.inverter} -> {config.editor}" if names else config.inverter
    pinned = f" is {plan.pack_url}" if plan.pack_url.startswith(SCHEME) else ""
    say(f"pack {plan.pack.name}{pinned} ({plan.pack_hash[:12]}, {plan.pack.size} px), {methods}")
    if config.align == "face" and "landmarks" not in plan.pack.networks:
        say(NO_LANDMARKS)
    say(f"config {plan.config_hash[:12]}: {json.dumps(compact(config), ensure_ascii=False)}")
    if resume.done:
        say(f"{len(resume.done)} shards are finished already, {len(resume.todo)} left to do")
    if resume.redo:
        say(f"{len(resume.redo)} finished shards are done again")
    if resume.absent:
        say(f"{len(resume.absent)} finished shards are not in this input; they stay")


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


def _edit(plan: JobPlan, output: Output, shards: Sequence[Shard], *, outcome: Outcome) -> Scores:
    """Start or join Ray, edit the shards, again those whose files were found missing in the end, and write record and report."""
    from pipeline.stream import report_remotely

    cluster = connect()
    try:
        pool = plan_pool(plan.config, cluster, shards=len(shards), of=len(plan.shards), worker_bytes=plan.worker_bytes)
        say(f"Ray at {cluster.address}: {cluster.cpus:g} cores, {cluster.gpus:g} GPUs; {pool}")
        keep(output.storage, Kept(running=plan.running, threads=pool.threads))
        outcome.workers = {**dataclasses.asdict(pool), "address": cluster.address}
        left: Sequence[Shard] = shards
        for _ in range(MOST_ROUNDS):
            _round(plan, output, left, pool=pool, outcome=outcome)
            withdrawn = output.finish()
            left = [shard for shard in plan.shards if shard.name in withdrawn]
            if not left:
                break
            say(f"files of {len(left)} shards are gone: doing them again")
        scores = mean_scores(output.storage)
        write_record(plan, output.storage, outcome, scores=scores)
        report_remotely(plan.output)
        return scores
    finally:
        disconnect()


def _conclude(plan: JobPlan, output: Output, outcome: Outcome) -> Scores:
    """Write the record and the report that an earlier run, which did all shards, did not come to write."""
    from pipeline.documents import write_documents

    output.finish()
    scores = mean_scores(output.storage)
    write_record(plan, output.storage, outcome, scores=scores)
    write_documents(plan.output)
    return scores


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
        wish=Wish(instructions=plan.instructions, keep=frozenset(config.keep), seed=config.seed),
        output=plan.output,
        run_id=run_id,
        config_hash=plan.config_hash,
        pack_hash=plan.pack_hash,
        registry=plan.registry,
    )
