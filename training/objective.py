"""What every kind of network says about its training, so that one loop trains them all.

A kind is one file of training/kinds: a config, an `Objective`, and `KIND`, which names both.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from models.pack import Pack
from training.group import Group
from training.shards import ShardPictures
from training.share import Share

Batch = TypeVar("Batch")
Precision = Literal["bf16", "float32"]
Split = Literal["validation", "held_out"]
FEWEST_PICTURES = 40  # two of them validate, two are held out


class SettingError(ValueError):
    """What a training stands on does not fit it: the pack, the data, or the network's name; the message says what would."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a training stands on: the workers, the frozen networks of a pack, pictures from shards, how exact the arithmetic is."""

    group: Group = Group()
    pack: Pack | None = None
    pictures: ShardPictures | None = None
    start: Pack | None = None
    """Pack whose network of the same name the training begins with; None leaves that to the network."""
    precision: Precision = "bf16"

    @cached_property
    def rows(self) -> PictureRows:
        """Return which of the shards' pictures are for training and which are kept back. Raises SettingError where there are none."""
        if self.pictures is None:
            raise SettingError("this training reads pictures from shards, and none were given: name them with --data")
        return PictureRows.of(len(self.pictures))

    def needed(self, what: str) -> Pack:
        """Return the pack. Raises SettingError where there is none."""
        if self.pack is None:
            raise SettingError(f"{what} leans on the networks of a pack, and none was given: name one with --pack")
        return self.pack


@dataclass(frozen=True, kw_only=True)
class PictureRows:
    """Rows of a data set: a tenth, at most 1,000, is never trained on; half of it chooses checkpoints, half is reported on."""

    train: Tensor
    validation: Tensor
    held_out: Tensor

    @classmethod
    def of(cls, n: int) -> PictureRows:
        """Split `n` rows, always in the same way. Raises SettingError where there are too few."""
        if n < FEWEST_PICTURES:
            raise SettingError(f"the data has {n} usable pictures: expected {FEWEST_PICTURES} or more")
        order, held = torch.randperm(n, generator=torch.Generator().manual_seed(0)), min(1000, n // 10)
        return cls(train=order[held:], validation=order[: held // 2], held_out=order[held // 2 : held])

    def unseen(self, split: Split) -> Tensor:
        """Return the rows that a split measures on."""
        return self.validation if split == "validation" else self.held_out


class Objective(nn.Module, ABC, Generic[Batch]):
    """A network in training: its data, loss, optimiser and numbers. Only `net` (averaged, where `average` is set) goes into a pack.

    Modules that are attributes are trained; frozen networks must be kept where torch does not look (a dataclass, a tuple).
    """

    net: nn.Module
    steps: int
    batch: int
    """Samples of one optimiser step, over all workers."""
    multiple: int = 1
    """What the samples of one worker's pass have to be a multiple of."""
    seed: int
    average: float | None = None
    """Decay of the exponential moving average of `net`; None keeps none."""
    clip_norm: float | None = None
    uses_all: bool = True
    """Whether every batch gives every parameter a gradient."""
    restarts: tuple[int, ...] = ()
    """Steps at which a new optimiser begins."""
    ahead: int = 0
    """Batches that may be drawn in advance, in the background; 0 where a draw depends on the steps before it."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def mixed_precision(self) -> AbstractContextManager[object]:
        """Run matrix products and convolutions in bfloat16 where the setting says so."""
        device = self.setting.group.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.setting.precision == "bf16")

    def prepare(self) -> None:
        """Make what training needs and measuring does not, such as rendered pictures."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """Return a new optimiser of the trained parameters."""

    @abstractmethod
    def rate(self, step: int) -> float:
        """Return the learning rate at a step."""

    @abstractmethod
    def draw(self, share: Share) -> Batch:
        """Return this share of a step's batch, on the training's device."""

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a mean over the share, and figures: scalars are logged, larger tensors go to `observe`."""

    def observe(self, figures: Mapping[str, Tensor]) -> None:
        """Look at the figures after each share, for instance to keep a running state in buffers."""

    @abstractmethod
    def measure(self, split: Split) -> dict[str, float]:
        """Return numbers that `net` reaches on people or pictures that training does not see."""

    @abstractmethod
    def score(self, numbers: Mapping[str, float]) -> float:
        """Return how good measured numbers are; the checkpoint with the highest score is the best."""

    @abstractmethod
    def network_config(self) -> Mapping[str, object]:
        """Return the constructor arguments of `net` that a pack stores."""

    def extra(self) -> Mapping[str, Tensor]:
        """Return tensors that a pack stores beside those of `net`."""
        return {}

    def details(self) -> Mapping[str, object] | None:
        """Return more about the held-out measurement than its numbers, for a file of the pack."""
        return None

    def sheet(self) -> Tensor | None:
        """Return pictures (N, C, 3, H, W), one row each, that show what `net` does now; values in [-1, 1]."""
        return None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of network that can be trained."""

    config: type[object]
    """Frozen dataclass of its settings, all with defaults."""
    objective: Callable[..., nn.Module]
    """The class of its Objective, made from (config, Setting)."""
    network: str
    """Name of the network in a pack."""
    summary: str
    needs: tuple[str, ...] = ()
    """Networks of the pack that it leans on."""
    bound_to: tuple[str, ...] = ()
    """Networks without which the trained one is worthless: where one of these is replaced, it leaves the pack."""
    reads_shards: bool = False
    """Whether it can learn from pictures in shards; the others learn from rendered truth."""
    reads_latents: bool = False
    """Whether the shards have to hold latents too."""


FITTED: Mapping[str, tuple[str, ...]] = {"nada": ("generator",), "styleclip_global": ("generator", "clip")}
"""Networks that jobs make out of others, without a kind of their own -> what they are bound to."""


def bonds() -> dict[str, tuple[str, ...]]:
    """Return the networks without which each network of a pack is worthless, where there are such."""
    kinds = [kind_of(name) for name in kind_names()]
    return {kind.network: kind.bound_to for kind in kinds if kind.bound_to} | dict(FITTED)


@runtime_checkable
class NamesFiles(Protocol):
    """Settings that name files which workers on other machines may not see."""

    def resolved(self) -> object:
        """Return the same settings with the files' content in their place."""
        ...


def build_objective(network: str, settings: object, setting: Setting) -> Objective[object]:
    """Return the objective of a kind, untrained."""
    objective = kind_of(network).objective(settings, setting)
    assert isinstance(objective, Objective)
    return objective


def kind_names() -> tuple[str, ...]:
    """Return the names of all kinds: the files of training/kinds."""
    package = importlib.import_module("training.kinds")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


def kind_of(name: str) -> Kind:
    """Return a kind by name. Raises SettingError naming those that there are."""
    if name not in kind_names():
        raise SettingError(f"network {name!r}: expected one of {', '.join(kind_names())}")
    kind = importlib.import_module(f"training.kinds.{name}").KIND
    assert isinstance(kind, Kind)
    return kind


def cosine(step: int, *, steps: int, warmup: int = 50) -> float:
    """Return the factor of the learning rate: linear warm-up, then a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
