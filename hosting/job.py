"""One training from configuration to pack: check, lock the output, open the MLflow run, host the workers, register the pack."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hosting.config import TrainConfig
from hosting.ray_train import FAILURE, PROGRESS, STOP, StopMark, host
from models.pack import Pack
from pipeline.config import ConfigError
from pipeline.lock import held
from pipeline.plan import absolute_output, shared_path
from pipeline.registry import SCHEME, PackSource, find_pack, register_pack
from pipeline.storage import Storage
from pipeline.tracking import TrackingError, tracking_uri
from pipeline.training_run import CONFIG_TAG, Opening, Run, RunWriter, begin_run, end_run, git_commit
from training.checkpoint import Checkpoints
from training.group import Group, launched_group
from training.objective import NamesFiles, Objective, build_objective
from training.run import PACK, Result, Training, begin, fingerprint, open_setting, run_training
from training.share import shares
from training.watch import LOG
from training.watch import to_terminal as say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_PACK = "none"
MARKS = (STOP, PROGRESS, FAILURE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """A checked training: what workers are told, and what the driver says about it."""

    training: Training
    fingerprint: str
    steps: int
    batch: int
    done: int
    """Step of the newest checkpoint in the output."""
    pack: PackSource | None
    """The pack as every worker can open it."""


def make_train_plan(config: TrainConfig, settings: object) -> TrainPlan:
    """Check all that a training names, by opening it as a worker does; changes nothing. Raises ConfigError or another ValueError."""
    settings = settings.resolved() if isinstance(settings, NamesFiles) else settings
    _check_registration(config)
    url, folder = _found_pack(config)
    training = _training(config, settings, pack=folder)
    setting = open_setting(training, Group())
    if setting.pictures is not None:
        _ = setting.rows  # raises where there are too few
    objective = build_objective(config.network, training.settings, setting)
    begin(training, objective, setting)
    mark, done = fingerprint(training, setting), 0
    newest = Checkpoints(training.output, keep=config.loop.keep).newest()
    if newest is not None:
        done = int(newest["step"])  # type: ignore[call-overload]
        if newest["fingerprint"] != mark:
            raise ConfigError(
                f"--output {config.output} holds checkpoints of a training with other settings, pack or data: "
                "choose another --output, or go back to the old settings"
            )
    _check_batch(objective, config)
    pack = None
    if setting.pack is not None:
        pack = PackSource(url=url, sha256=setting.pack.sha256, registry=tracking_uri(config.tracking, config.output))
    return TrainPlan(training=training, fingerprint=mark, steps=objective.steps, batch=objective.batch, done=done, pack=pack)


def _found_pack(config: TrainConfig) -> tuple[str, str | None]:
    """Return the pack as every worker can open it, an alias resolved to its version, and as this process opens it."""
    if config.pack == NO_PACK:
        return "", None
    if config.pack.startswith(SCHEME):
        found = find_pack(config.pack, uri=tracking_uri(config.tracking, config.output))
        return found.url, found.folder
    return shared_path(config.pack), config.pack


def _training(config: TrainConfig, settings: object, *, pack: str | None) -> Training:
    if config.start is not None and config.start.startswith(SCHEME):
        raise ConfigError(f"--start {config.start}: expected a folder or URL of a pack; only --pack takes one from a model registry")
    commit = git_commit()
    return Training(
        network=config.network, settings=settings, output=absolute_output(config.output), loop=config.loop,
        precision=config.precision, pack=pack,
        data=",".join(map(shared_path, config.data.split(","))) if config.data is not None else None,
        start=shared_path(config.start) if config.start is not None else None, image_ext=config.image_ext, threads=config.workers.threads,
        provenance={"command": "jobs/train.py"} | ({"commit": commit} if commit else {}),
    )  # fmt: skip


def _check_registration(config: TrainConfig) -> None:
    if config.register.model is not None and not config.tracking.enabled:
        raise ConfigError(f"--register.model {config.register.model} needs MLflow: leave out --tracking.enabled false")


def _check_batch(objective: Objective[object], config: TrainConfig) -> None:
    workers = config.workers
    try:
        for world in range(workers.min or workers.count, workers.count + 1):
            part = shares(seed=0, step=0, batch=objective.batch, rank=0, world=world, accumulate=config.loop.accumulate)[0]
            if part.count % objective.multiple:
                raise ValueError(
                    f"{config.network} needs a multiple of {objective.multiple} samples per worker and pass, "
                    f"found {part.count} with {world} worker(s)"
                )
    except ValueError as error:
        raise ConfigError(f"--settings.batch, --workers.count, --loop.accumulate: {error}") from error


def run_train_job(config: TrainConfig, settings: object, *, started: Callable[[], None]) -> dict[str, object] | None:
    """Train, or go on with a training that was stopped; return what came out, None where another worker of torchrun's tells.

    `started` is called once there is something that a stop mark can stop.
    Raises ConfigError, OutputError, PackError or another ValueError before anything starts; TrainingError when workers fail for good.
    """
    plan = make_train_plan(config, settings)
    training = plan.training
    if config.dry_run:
        return {"dry_run": True, "network": training.network, "steps": plan.steps, "done": plan.done, "output": training.output}
    group = launched_group() if config.plain else Group()
    if not group.is_first:
        started()
        run_training(training, group)
        return None
    where = f"{training.network}: {plan.steps} steps of {plan.batch}"
    say(f"{where}, {'going on at ' + str(plan.done) if plan.done else 'from the start'}, output {training.output}")
    with held(Storage(training.output), say=say, clear=MARKS):
        started()
        opening = _open(config, plan)
        try:
            if config.plain:
                result = _plain(training, group, opening.run())
            else:
                result = host(training, config.workers, opening, pack=plan.pack, say=say)
        except BaseException as error:
            end_run(opening.run(), status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", metrics={}, artifacts=[])
            raise
        return _conclude(config, opening.run(), result, training.output)


def _plain(training: Training, group: Group, run: Run) -> Result:
    """Run the loop here: alone, or as the first of torchrun's workers."""
    with RunWriter(run) as writer:
        return run_training(training, group, recorder=writer, should_stop=StopMark(training.output).is_set)


def _open(config: TrainConfig, plan: TrainPlan) -> Opening:
    params: Mapping[str, object] = {
        **{key: value for key, value in dataclasses.asdict(config).items() if key not in ("tracking", "dry_run")},
        "settings": dataclasses.asdict(plan.training.settings),  # type: ignore[call-overload]
    }
    tags = {CONFIG_TAG: plan.fingerprint, "hyperedit.pack": plan.pack.sha256 if plan.pack else NO_PACK, "hyperedit.network": config.network}
    return begin_run(
        config.tracking,
        output=plan.training.output,
        name=config.network,
        params=json.loads(json.dumps(params)),
        tags=tags,
        going_on=plan.done > 0,
    )


def _conclude(config: TrainConfig, run: Run, result: Result, output: str) -> dict[str, object]:
    """Register the pack, end the run and say what came out."""
    storage = Storage(output)
    summary: dict[str, object] = {**dataclasses.asdict(result), "output": output, "mlflow_run_id": run.run_id}
    if not result.finished:
        end_run(run, status="KILLED", metrics={"step": result.step}, artifacts=[])
        return summary
    if config.register.model is not None:  # before the run is ended: the same command then goes on with it
        try:
            with _local(storage) as folder:
                version = register_pack(run, folder, model=config.register.model, alias=config.register.alias)
        except TrackingError as error:
            end_run(run, status="FAILED", metrics=result.numbers, artifacts=[storage.url_of(LOG)])
            raise TrackingError(f"the pack is at {result.pack}, but was not registered; the same command tries again: {error}") from error
        alias = f", alias {config.register.alias}" if config.register.alias else ""
        say(f"registered as {config.register.model} version {version}{alias}")
        summary["registered"] = {"model": config.register.model, "version": version, "alias": config.register.alias}
    end_run(run, status="FINISHED", metrics=result.numbers, artifacts=[storage.url_of(LOG)])
    return summary


@contextmanager
def _local(storage: Storage) -> Iterator[Path]:
    """Give the new pack as a local folder."""
    if storage.is_local:
        yield Path(storage.path(PACK))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / PACK
        folder.mkdir()
        for path in storage.files(PACK):
            (folder / path.rsplit("/", 1)[-1]).write_bytes(storage.read(path))
        Pack.load(folder)
        yield folder
