"""The one training loop: plain torch, one process per worker. Ray Train only starts these processes (hosting/ray_train.py).

A step is a function of the state before it and of (seed, step) alone, so a training that was killed and goes on from a checkpoint ends
with the weights of one that was never disturbed. Several workers follow the curve of one with the same global batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.batch_norm import share_batch_norms
from training.checkpoint import CheckpointError, Checkpoints
from training.objective import Objective
from training.prefetch import Prefetcher
from training.share import mixed, shares
from training.watch import Watch

STOP_EVERY = 5  # steps between two looks at whether somebody asked to stop: all workers have to agree on the step


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How the loop runs, whatever it trains."""

    accumulate: int = 1
    """Backward passes per optimiser step; divides the memory that a worker needs."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    keep: int = 2
    """Newest checkpoints to keep."""
    log_every: int = 20
    """Steps between two lines of the log."""
    sheet_every: int = 500
    """Steps between two sample sheets; 0 makes none."""
    measure_every: int = 0
    """Steps between two measurements on validation people, which choose the best checkpoint; 0 takes the last one."""

    def __post_init__(self) -> None:
        for name in ("accumulate", "checkpoint_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} {getattr(self, name)}: expected 1 or more")
        for name in ("sheet_every", "measure_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"loop.{name} {getattr(self, name)}: expected 0 or more")


@dataclass(kw_only=True)
class Fitted:
    """How a training ended: after all its steps, or stopped before."""

    step: int
    finished: bool
    seconds: float
    """Over all runs of this training."""
    best: dict[str, object] = field(default_factory=dict)


def fit(
    objective: Objective[object],
    config: LoopConfig,
    *,
    checkpoints: Checkpoints,
    fingerprint: str,
    watch: Watch,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train to the end, from the newest checkpoint if there is one; `net` holds the best (averaged) weights afterwards.

    `fingerprint` names settings and data: a checkpoint of others raises CheckpointError. When `should_stop` says so on any worker, all
    stop at the same step with a checkpoint.
    """
    return _Training(objective, config, checkpoints=checkpoints, fingerprint=fingerprint, watch=watch).run(should_stop)


class _Training:
    def __init__(
        self, objective: Objective[object], config: LoopConfig, *, checkpoints: Checkpoints, fingerprint: str, watch: Watch
    ) -> None:
        self.objective, self.config, self.checkpoints = objective, config, checkpoints
        self.fingerprint, self.watch = fingerprint, watch
        self.group = objective.setting.group
        shares(seed=0, step=0, batch=objective.batch, rank=0, world=self.group.world, accumulate=config.accumulate)
        share_batch_norms(objective, self.group)
        objective.to(self.group.device).train()
        lay_channels_last(objective.parameters())
        self.wrapped = self.group.wrap(objective, uses_all=objective.uses_all)
        self.optimizer = objective.optimizer()
        self.average = Average(objective.net, decay=objective.average) if objective.average is not None else None
        self.best: dict[str, object] = {}
        self.step, self.before_s, self.start = 0, 0.0, time.monotonic()
        self.saved_s = 0.0
        self._resume()

    def run(self, should_stop: Callable[[], bool]) -> Fitted:
        objective, config = self.objective, self.config
        if self.step < objective.steps:
            objective.prepare()
        with ExitStack() as stack:
            draws = self._draws(stack)
            while self.step < objective.steps:
                figures = self._step(next(draws))
                self.step += 1
                last = self.step == objective.steps
                if last or self.step % config.log_every == 0:
                    self.watch.figures(self.step, self._logged(figures))
                if config.sheet_every and (last or self.step % config.sheet_every == 0):
                    self._sheet()
                if config.measure_every and (last or self.step % config.measure_every == 0):
                    self._choose()
                stop = not last and self.step % STOP_EVERY == 0 and self.group.any(should_stop())
                if last or stop or self.step % config.checkpoint_every == 0:
                    self._logged(figures)
                    self._check_weights()
                    self._checkpoint()
                if stop:
                    return Fitted(step=self.step, finished=False, seconds=self.saved_s)
        self._load_best()
        return Fitted(step=self.step, finished=True, seconds=self.saved_s, best=self.best)

    @property
    def seconds(self) -> float:
        return self.before_s + time.monotonic() - self.start

    def _draws(self, stack: ExitStack) -> Iterator[list[object]]:
        """Yield this worker's shares of every step's batch."""
        if not self.objective.ahead:
            return (self._draw(step) for step in range(self.step, self.objective.steps))
        return iter(stack.enter_context(Prefetcher(self._draw, start=self.step, stop=self.objective.steps, ahead=self.objective.ahead)))

    def _draw(self, step: int) -> list[object]:
        objective, group = self.objective, self.group
        parts = shares(
            seed=objective.seed, step=step, batch=objective.batch, rank=group.rank, world=group.world, accumulate=self.config.accumulate
        )
        return [objective.draw(part) for part in parts]

    def _step(self, batches: list[object]) -> dict[str, Tensor]:
        """Make one optimiser step; return the figures of the last share."""
        objective = self.objective
        if self.step in objective.restarts:
            self.optimizer = objective.optimizer()
        for options in self.optimizer.param_groups:
            options["lr"] = objective.rate(self.step)
        torch.manual_seed(mixed(objective.seed, self.step, self.group.rank))
        self.optimizer.zero_grad()
        figures: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            with self._quiet(last=number + 1 == len(batches)):
                loss, figures = self.wrapped(batch)
                (loss / len(batches)).backward()
            figures = {name: value.detach() for name, value in {"loss": loss, **figures}.items()}
            objective.observe(figures)
        if objective.clip_norm is not None:
            nn.utils.clip_grad_norm_(objective.parameters(), objective.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(objective.net)
        return figures

    def _quiet(self, *, last: bool) -> AbstractContextManager[object]:
        """Exchange gradients only after the last of the accumulated passes."""
        return nullcontext() if last or not isinstance(self.wrapped, DistributedDataParallel) else self.wrapped.no_sync()

    def _logged(self, figures: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the mean of the scalar figures over the workers. Raises FloatingPointError where the loss is not a number."""
        shown = self.group.mean({name: float(value) for name, value in figures.items() if value.numel() == 1})
        if not math.isfinite(shown["loss"]):
            raise FloatingPointError(
                f"the loss is {shown['loss']} at step {self.step}: lower the learning rate, or try --precision float32; "
                "the last checkpoint is from before this step"
            )
        done = self.step * self.objective.batch
        return shown | {"learning_rate": self.objective.rate(self.step - 1), "images": float(done)}

    def _check_weights(self) -> None:
        """Raise FloatingPointError before a checkpoint keeps broken weights: a loss can be a number while its gradient is none."""
        for name, value in self.objective.named_parameters():
            if not torch.isfinite(value).all():
                raise FloatingPointError(
                    f"the weights {name} are not numbers after step {self.step}: lower the learning rate, or try --precision float32; "
                    "the last checkpoint is from before that"
                )

    def _sheet(self) -> None:
        if self.group.is_first:
            with self._averaged():
                pictures = self.objective.sheet()
            if pictures is not None:
                self.watch.sheet(self.step, pictures)
        self.group.wait()

    def _choose(self) -> None:
        """Measure on validation people and remember the weights if they are the best so far."""
        if self.group.is_first:
            with self._averaged():
                numbers = self.objective.measure("validation")
                score = self.objective.score(numbers)
                self.watch.figures(self.step, {**{f"validation_{name}": value for name, value in numbers.items()}, "score": score})
                if score > float(self.best.get("score", -math.inf)):  # type: ignore[arg-type]
                    weights = {name: value.detach().clone() for name, value in self.objective.net.state_dict().items()}
                    self.best = {"step": self.step, "score": score, "weights": weights}
        self.group.wait()

    def _averaged(self) -> AbstractContextManager[object]:
        """Give `net` its averaged weights, evaluated without gradient, for a while."""
        return _Borrowed(self.objective, self.average.state if self.average is not None else None)

    def _load_best(self) -> None:
        chosen = self.best.get("weights") or (self.average.state if self.average is not None else None)
        if chosen is not None:
            self.objective.net.load_state_dict(chosen)  # type: ignore[arg-type]
        self.objective.eval()

    def _checkpoint(self) -> None:
        self.saved_s = self.seconds
        if self.group.is_first:
            self.watch.saves()  # before the checkpoint: what a log says too much is forgotten, what it lacks is lost
            tree: dict[str, object] = {
                "fingerprint": self.fingerprint,
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state if self.average is not None else None,
                "best": self.best,
                "seconds": self.saved_s,
            }
            self.checkpoints.write(self.step, tree)
        self.group.wait()

    def _resume(self) -> None:
        found = self.checkpoints.newest()
        steps = self.group.gather(torch.tensor([-1 if found is None else int(found["step"])], device=self.group.device)).tolist()  # type: ignore[call-overload]
        if len(set(steps)) > 1:
            raise CheckpointError(f"the workers read checkpoints of different steps ({steps}): expected an --output that all of them see")
        if found is None:
            return
        if found["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"the output holds checkpoints of a training with other settings or data ({found['fingerprint']}, "
                f"this one is {self.fingerprint}): name another --output, or go back to the old settings"
            )
        self.objective.load_state_dict(found["objective"])  # type: ignore[arg-type]
        self.step = int(found["step"])  # type: ignore[call-overload]
        self.optimizer.load_state_dict(found["optimizer"])  # type: ignore[arg-type]
        kept = [value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        lay_channels_last(kept)  # as the weights: checkpoints do not keep the layout, and mixed ones are slow
        if self.average is not None:
            self.average.load(found["average"])  # type: ignore[arg-type]
        self.best = dict(found["best"])  # type: ignore[call-overload]
        self.before_s = self.saved_s = float(found["seconds"])  # type: ignore[arg-type]
        self.watch.resumed(self.step)


@torch.no_grad()
def lay_channels_last(tensors: Iterable[Tensor]) -> None:
    """Store kernels (O, I, k, k) with their channels last, which makes a step of a convolutional network up to a third faster on a CPU."""
    for tensor in tensors:
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


class _Borrowed(AbstractContextManager[None]):
    """Swap weights of an objective's network in and out, in evaluation mode without gradients."""

    def __init__(self, objective: Objective[object], weights: Mapping[str, Tensor] | None) -> None:
        self.objective, self.weights = objective, weights
        self.no_grad = torch.no_grad()

    def __enter__(self) -> None:
        net = self.objective.net
        self.own = {name: value.detach().clone() for name, value in net.state_dict().items()}
        self.no_grad.__enter__()
        if self.weights is not None:
            net.load_state_dict(self.weights)
        self.objective.eval()

    def __exit__(self, *_: object) -> None:
        self.objective.net.load_state_dict(self.own)
        self.objective.train()
        self.no_grad.__exit__(None, None, None)


class Average:
    """Keep an exponential moving average of a module's floating parameters and buffers."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module."""
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - self.decay)
            else:
                self.state[key].copy_(value)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        for key, value in state.items():
            self.state[key].copy_(value)
