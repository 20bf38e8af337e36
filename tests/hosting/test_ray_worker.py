"""What a worker of Ray Train does about an error that would come again, and the driver about a stop that no worker hears."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import ray.train.torch
import torch

from hosting.ray_train import Progress, StopMark, TrainingError, Width, _failure, _fit, _work
from pipeline.lock import FolderLock
from pipeline.storage import Storage
from pipeline.training_run import Run
from tests.commands import ROOT
from tests.training.small_kinds import PACK, SMALL
from training.kinds.e4e import EncoderConfig
from training.run import Training


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Return what a worker is told, of a training whose first step breaks the weights, with the driver's lock in its output."""
    monkeypatch.chdir(ROOT)  # the worker goes there
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    settings = SMALL["e4e"]
    assert isinstance(settings, EncoderConfig)
    training = Training(network="e4e", settings=replace(settings, rate=1e30), output=str(tmp_path / "out"), pack=str(PACK))
    return {"training": training, "run": Run(uri="unused"), "pack": None}


def test_the_next_worker_tells_it_and_does_not_try(config: dict[str, object], tmp_path: Path) -> None:
    lock = FolderLock(Storage(str(tmp_path / "out")))
    lock.acquire()
    try:
        with pytest.raises(FloatingPointError, match="the loss is"):
            _work(config)
        assert _failure(str(tmp_path / "out")).startswith("FloatingPointError: the loss is")
        (tmp_path / "out" / "log.jsonl").unlink(missing_ok=True)
        with pytest.raises(TrainingError, match="FloatingPointError: the loss is"):
            _work(config)
        assert not (tmp_path / "out" / "log.jsonl").exists(), "it did not begin"
    finally:
        lock.release()


def test_a_worker_that_does_not_see_the_output_says_so(config: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="does not see the output .* of the driver: expected a folder or URL that all machines share"):
        _work(config)


class WaitingTrainer:
    """Ray Train on a cluster without room: it waits."""

    room = threading.Event()

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def fit(self) -> SimpleNamespace:
        """Wait for the test's end, as long as it takes."""
        assert self.room.wait(60)
        return SimpleNamespace(error=None)


def test_a_stop_while_ray_waits_for_room_ends_the_job(config: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", WaitingTrainer)
    training, width = config["training"], Width(count=1, least=1, threads=1, gpus=0.0)
    assert isinstance(training, Training)
    run, scratch = Run(uri="unused"), str(tmp_path)
    StopMark(training.output).set()
    with pytest.raises(KeyboardInterrupt):
        _fit(training, width, run, scratch=scratch, max_failures=0, pack=None, say=print)

    Progress(training.output).begin()  # a worker is there: it stops at a checkpoint
    threading.Timer(3, WaitingTrainer.room.set).start()
    _fit(training, width, run, scratch=scratch, max_failures=0, pack=None, say=print)


@pytest.mark.parametrize(("least", "asked"), [(3, 3), (1, (1, 3))])
def test_fewer_workers_than_asked_for_are_ray_s_to_choose_where_the_user_allows_them(
    config: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, asked: object
) -> None:
    told: dict[str, Any] = {}

    class ReadyTrainer:
        def __init__(self, *_: object, **options: object) -> None:
            told.update(options)

        def fit(self) -> SimpleNamespace:
            return SimpleNamespace(error=None)

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", ReadyTrainer)
    training = config["training"]
    assert isinstance(training, Training)
    width = Width(count=3, least=least, threads=1, gpus=0.0)
    _fit(training, width, Run(uri="unused"), scratch=str(tmp_path), max_failures=2, pack=None, say=print)
    assert told["scaling_config"].num_workers == asked
    assert told["run_config"].failure_config.max_failures == 2
