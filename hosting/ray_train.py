"""Host a training in Ray Train: start the workers, restart them when one is lost, pass on the wish to stop.

Ray Train starts processes and connects them; what they do, checkpoints included, is training/run.py's. A restarted group goes on from
the newest checkpoint in the output, as does a job that is started again.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hosting.config import TrainWorkersConfig
from pipeline.cluster import Cluster, connect, disconnect, offer_token, set_where_unset
from pipeline.config import ConfigError
from pipeline.lock import LOCK, WORK
from pipeline.registry import PackSource
from pipeline.storage import Storage
from pipeline.training_run import Opening, Run, RunWriter
from training.group import Group
from training.run import RESULT, Result, Training, run_training

STOP, PROGRESS, FAILURE = f"{WORK}/stop", f"{WORK}/progress.json", f"{WORK}/failure.json"
KEPT_LINES = 20
LOOK_EVERY_S = 1.0
HOPELESS = (ValueError, TypeError, LookupError, ArithmeticError, AssertionError)  # the same code on the same data fails again
MAX_THREADS = 4
SETTINGS = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what workers print would come twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more, for a warning that nobody here reads: checkpoints come often
}


class TrainingError(RuntimeError):
    """The training ended with an error in a worker, whose traceback is above."""


@dataclass(frozen=True, kw_only=True)
class Width:
    """How many workers, and what each holds."""

    count: int
    least: int
    threads: int
    gpus: float

    def __str__(self) -> str:
        workers = f"{self.count}" if self.count == self.least else f"{self.least} to {self.count}"
        return f"{workers} worker(s), each {f'{self.gpus:g} GPU' if self.gpus else 'no GPU'} and {self.threads} thread(s)"


def plan_width(config: TrainWorkersConfig, cluster: Cluster) -> Width:
    """Decide what a worker holds. Raises ConfigError when the cluster cannot have that many."""
    gpus = config.gpus if config.gpus is not None else float(cluster.gpus > 0)
    threads = config.threads or max(1, min(MAX_THREADS, int(cluster.cpus // config.count)))
    least = config.min or config.count
    if gpus and least * gpus > cluster.gpus:
        raise ConfigError(
            f"--workers.count: {least} x {gpus:g} GPUs asked for, but the cluster at {cluster.address} has {cluster.gpus:g}; "
            "lower --workers.count, --workers.min or --workers.gpus"
        )
    if not gpus and least > cluster.cpus:
        raise ConfigError(f"--workers.count {least}: the cluster at {cluster.address} has {cluster.cpus:g} cores, one worker needs one")
    return Width(count=config.count, least=least, threads=threads, gpus=gpus)


class StopMark:
    """A file in the output that asks all workers to stop at a checkpoint; only the first worker has to see it."""

    def __init__(self, output: str) -> None:
        self._storage, self._looked, self._seen = Storage(output), 0.0, False

    def set(self) -> None:
        """Ask for a stop."""
        self._storage.write(STOP, b"stop\n", durable=False)

    def is_set(self) -> bool:
        """Say whether a stop was asked for; looks at most once a second."""
        now = time.monotonic()
        if not self._seen and now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            with suppress(OSError):  # a storage that stumbles once must not cost a restart
                self._seen = self._storage.exists(STOP)
        return self._seen


class Progress:
    """What the first worker says, in a file of the output that the driver reads: Ray's own way mixes in what Ray's processes say."""

    def __init__(self, output: str) -> None:
        self._storage, self._lines, self._count, self._begun = Storage(output), list[str](), 0, False

    @property
    def begun(self) -> bool:
        """Say whether a worker was there at the last look for news."""
        return self._begun

    def begin(self) -> None:
        """Tell the driver that a worker is there, which hears a stop from now on."""
        with suppress(OSError):
            self._storage.write(PROGRESS, json.dumps({"count": 0, "lines": []}).encode(), durable=False)

    def say(self, text: str) -> None:
        """Tell the driver something."""
        self._count += 1
        self._lines = [*self._lines, text][-KEPT_LINES:]
        with suppress(OSError):
            self._storage.write(PROGRESS, json.dumps({"count": self._count, "lines": self._lines}).encode(), durable=False)

    def news(self) -> list[str]:
        """Return what was said since the last call."""
        try:
            told = json.loads(self._storage.read(PROGRESS))
        except (OSError, ValueError):
            return []
        self._begun = True
        new = told["count"] - self._count if told["count"] >= self._count else told["count"]  # a restarted worker counts anew
        self._count = told["count"]
        return list(told["lines"][-new:]) if new else []


def host(
    training: Training, workers: TrainWorkersConfig, opening: Opening, *, pack: PackSource | None, say: Callable[[str], None]
) -> Result:
    """Run a training on the cluster of RAY_ADDRESS or on this machine. Raises ConfigError, or TrainingError when workers fail for good."""
    offer_token()
    set_where_unset(SETTINGS)
    cluster = connect(worker_output=False)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        width = plan_width(workers, cluster)
        say(f"{width} of the cluster at {cluster.address}")
        with tempfile.TemporaryDirectory(prefix="hyperedit-train-") as scratch:
            training = replace(training, threads=width.threads)
            _fit(training, width, opening.run(), scratch=scratch, max_failures=workers.max_failures, pack=pack, say=say)
    finally:
        disconnect()
    return Result(**json.loads(Storage(training.output).read(RESULT)))


def _fit(
    training: Training, width: Width, run: Run, *, scratch: str, max_failures: int, pack: PackSource | None, say: Callable[[str], None]
) -> None:
    """Run Ray Train in a thread: this process stays free to hear signals. Raises KeyboardInterrupt where no worker can hear them."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cpus = 0.0 if width.gpus else 1.0
    trainer = TorchTrainer(
        _work,
        train_loop_config={"training": training, "run": run, "pack": pack},
        torch_config=TorchConfig(timeout_s=1800),
        scaling_config=ScalingConfig(
            num_workers=width.count if width.least == width.count else (width.least, width.count),  # type: ignore[arg-type]
            use_gpu=width.gpus > 0,
            resources_per_worker={"CPU": cpus} | ({"GPU": width.gpus} if width.gpus else {}),
        ),
        run_config=RunConfig(name="training", storage_path=scratch, failure_config=FailureConfig(max_failures=max_failures)),
    )
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            result = trainer.fit()
            errors.extend([result.error] if result.error is not None else [])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=fit, name="ray train", daemon=True)
    thread.start()
    progress, stop = Progress(training.output), StopMark(training.output)
    while thread.is_alive():
        thread.join(LOOK_EVERY_S)
        for text in progress.news():
            say(text)
        if not progress.begun and stop.is_set():  # no worker is there to hear it: Ray may wait for room on the cluster
            raise KeyboardInterrupt
    if errors:
        raise TrainingError(_failure(training.output) or str(errors[0])) from errors[0]


def _work(config: dict[str, object]) -> None:
    """Be one worker of Ray Train."""
    import ray.train
    import ray.train.torch

    training, run, pack = config["training"], config["run"], config["pack"]
    assert isinstance(training, Training) and isinstance(run, Run)
    os.chdir(Path(__file__).parents[1])  # Ray Train moved to a folder of its own; relative paths mean the copy of the code
    if isinstance(pack, PackSource):
        training = replace(training, pack=pack.path_or_url())
    context = ray.train.get_context()
    group = Group(rank=context.get_world_rank(), world=context.get_world_size(), device=ray.train.torch.get_device())
    _look_for_driver(training.output)
    told = _failure(training.output)
    if told:  # Ray starts workers again whatever they died of
        raise TrainingError(told)
    stop = StopMark(training.output)
    try:
        if not group.is_first:
            run_training(training, group)
        else:
            progress = Progress(training.output)
            progress.begin()
            with RunWriter(run) as writer:
                run_training(training, group, recorder=writer, say=progress.say, should_stop=stop.is_set)
    except HOPELESS as error:
        Storage(training.output).write(FAILURE, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode(), durable=False)
        raise


def _look_for_driver(output: str) -> None:
    """Raise TrainingError where this machine does not see the output that the driver holds the lock of."""
    if not Storage(output).exists(LOCK):
        raise TrainingError(
            f"a worker on {socket.gethostname()} does not see the output {output} of the driver: "
            "expected a folder or URL that all machines share"
        )


def _failure(output: str) -> str:
    """Return what ended the training for good, empty where nothing did."""
    try:
        return str(json.loads(Storage(output).read(FAILURE))["error"])
    except (OSError, ValueError):
        return ""
