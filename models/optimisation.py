"""What the inverters that optimise share: the loop, its early stops, the best parameters so far, seeds and progress.

The loop moves a group of pictures in lock-step. Nothing passes between them: each has its own parameters, its own state in the optimiser,
its own random numbers (seeded by its bytes) and stops for itself, so a picture's result does not depend on the batch that it is in,
up to the rounding of batched sums. Memory: pictures are moved in groups of the size `lockstep`, so that only one group's parameters and
gradients exist at a time, whatever the batch.

Shape legend: B batch, A pictures of the batch that still run, C channels, H/W rows/columns, L latent slots, D style width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from models.inverters import pooled
from models.similarity import Seen, Similarity
from models.stylegan2 import Generator

OnStep = Callable[[int, int, Tensor], None]
"""Takes the picture-steps done, their number in all, and each picture's latest loss (B,), NaN before its first."""


@runtime_checkable
class Stepwise(Protocol):
    """An inverter that takes many steps per picture and tells of them."""

    on_step: OnStep | None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How the running pictures stand: `objective_A` is made small, the parameters of the lowest `quality_A` are kept, `reached_A` stops."""

    objective_A: Tensor
    quality_A: Tensor
    reached_A: Tensor


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best parameters of each picture, in the order given, their quality and the steps that each picture took."""

    parameters: list[list[Tensor]]
    quality: list[float]
    steps: list[int]


Judge = Callable[[Sequence[int], int], Judged]
"""Takes the rows that still run and the number of the step."""


class Progress:
    """Count picture-steps over all phases of one `invert` and tell `on_step`; steps that an early stop saves count as done."""

    def __init__(self, on_step: OnStep | None, *, pictures: int, steps: int) -> None:
        self.on_step = on_step
        self.done = 0
        self.total = pictures * steps
        self.losses_B = torch.full((pictures,), torch.nan)

    def advance(self, rows: Sequence[int], losses_A: Tensor, *, steps: int) -> None:
        """Note that `steps` more of these pictures' steps are done, and their losses."""
        self.done += steps * len(rows)
        if self.on_step is not None and rows:
            self.losses_B[list(rows)] = losses_A.detach().float().cpu()
            self.on_step(self.done, self.total, self.losses_B.clone())


class Best:
    """Keep the parameters of each picture at its lowest quality so far."""

    def __init__(self, parameters: Sequence[Sequence[Tensor]]) -> None:
        self.parameters = parameters
        self.kept: list[list[Tensor]] = [[] for _ in parameters]
        self.quality = [float("inf")] * len(parameters)

    def consider(self, rows: Sequence[int], quality: Sequence[float]) -> None:
        """Copy the parameters of the rows that improved; a first value counts even where it is not finite."""
        for row, value in zip(rows, quality, strict=True):
            if not self.kept[row] or value < self.quality[row]:
                self.kept[row] = [parameter.detach().clone() for parameter in self.parameters[row]]
                self.quality[row] = value


def descend(
    parameters: Sequence[Sequence[Tensor]], judge: Judge, *, optimizer: Optimizer, steps: int,
    rate: Callable[[int], float] | None = None, settled: int = 0, report: Callable[[Sequence[int], Tensor, int], None] | None = None,
) -> Found:  # fmt: skip
    """Move each picture's parameters for up to `steps` steps and return the best that were seen.

    The loss is judged before every step and once after the last. Before step `settled` nothing is kept or stopped. `rate` gives the
    learning rate of a step; `report` gets rows, losses and how many steps these pictures are further. A row of `parameters` must be
    leaves that `optimizer` holds; their gradients are taken by themselves, so no network's `.grad` is touched.
    """
    best, running = Best(parameters), list(range(len(parameters)))
    took = [0] * len(parameters)
    report = report or (lambda rows, losses, count: None)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            judged = judge(running, step)
        stops = [False] * len(running)
        if step >= min(settled, steps):
            best.consider(running, judged.quality_A.tolist())
            stops = [bool(reached) or step == steps for reached in judged.reached_A.tolist()]
        stopped = [row for row, stop in zip(running, stops, strict=True) if stop]
        places = [place for place, stop in enumerate(stops) if not stop]
        report(stopped, judged.quality_A[[place for place, stop in enumerate(stops) if stop]], steps - step)
        running = [running[place] for place in places]
        if not running:
            break
        _move(
            [p for row in running for p in parameters[row]],
            judged.objective_A[places].sum(),
            optimizer,
            None if rate is None else rate(step),
        )
        for row in running:
            took[row] += 1
        report(running, judged.quality_A[places], 1)
    return Found(parameters=best.kept, quality=best.quality, steps=took)


def _move(leaves: Sequence[Tensor], loss: Tensor, optimizer: Optimizer, rate: float | None) -> None:
    """Take one step for these leaves; the optimiser passes over the others, which have no gradient."""
    optimizer.zero_grad(set_to_none=True)
    for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
        leaf.grad = gradient
    if rate is not None:
        for group in optimizer.param_groups:
            group["lr"] = rate
    optimizer.step()


@contextmanager
def gradients() -> Iterator[None]:
    """Switch gradients on whatever the caller switched off, inference mode too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def targets(name: str, images_BCHW: Tensor, *, size: int) -> Tensor:
    """Return ordinary tensors of the generator's size. Raises ValueError for pictures that are not RGB, not square or smaller."""
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3 or images_BCHW.shape[2] != images_BCHW.shape[3] or images_BCHW.shape[2] < size:
        raise ValueError(f"inverter {name!r}: expected pictures (B, 3, H, H) with H of {size} or more, found {tuple(images_BCHW.shape)}")
    images = images_BCHW.detach()
    return pooled(images.clone() if images.is_inference() else images, size)


def picture_sources(images_BCHW: Tensor) -> list[torch.Generator]:
    """Return a random source for each picture, on the CPU, seeded by the picture's bytes: the same picture draws the same numbers."""
    return [torch.Generator().manual_seed(picture_seed(image)) for image in images_BCHW]


def picture_seed(image_CHW: Tensor) -> int:
    """Return a number below 2^63 that only the picture's float32 values decide."""
    data = image_CHW.detach().float().cpu().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def check_stop(name: str, similarity: Similarity, stop_lpips: float | None) -> None:
    """Raise ValueError when pictures are to stop at an LPIPS that nobody measures."""
    if stop_lpips is not None and "lpips" not in similarity.terms:
        raise ValueError(f"inverter {name!r}: stop_lpips needs the LPIPS term; the similarity has {', '.join(similarity.terms)}")


def reached(parts: Mapping[str, Tensor], loss_A: Tensor, stop_lpips: float | None) -> Tensor:
    """Return which pictures are as close as they need be, (A,): all False without a `stop_lpips`."""
    return torch.zeros_like(loss_A, dtype=torch.bool) if stop_lpips is None else parts["lpips"] <= stop_lpips


def judged(
    similarity: Similarity, made_BCHW: Tensor, wanted: Seen, *, stop_lpips: float | None, more: Callable[[], Tensor] | None = None
) -> Judged:
    """Judge pictures by a similarity; `more` is what the objective has beyond it, asked for only where gradients are on."""
    parts = similarity.parts(similarity.see(made_BCHW), wanted)
    loss_A = similarity.total(parts)
    objective_A = loss_A + more() if more is not None and torch.is_grad_enabled() else loss_A
    return Judged(objective_A=objective_A, quality_A=loss_A.detach(), reached_A=reached(parts, loss_A, stop_lpips))


def mean_slots(mean_latent: Tensor, generator: Generator, *, name: str) -> Tensor:
    """Return the mean latent for every slot, (1, L, D), from (D,) or (L, D). Raises ValueError for other shapes."""
    shapes = ((generator.style_dim,), (generator.n_latents, generator.style_dim))
    if tuple(mean_latent.shape) not in shapes:
        raise ValueError(f"inverter {name!r}: mean latent must have shape {shapes[0]} or {shapes[1]}, found {tuple(mean_latent.shape)}")
    mean = mean_latent if mean_latent.ndim == 2 else mean_latent.expand(generator.n_latents, -1)
    return mean[None].to(generator.conv1.conv.weight)


def random_w(generator: Generator, count: int, *, sources: Sequence[torch.Generator]) -> Tensor:
    """Return `count` mapped normal draws of each source, one w in every slot, (sources * count, L, D), without a gradient."""
    z = torch.cat([torch.randn(count, generator.style_dim, generator=source) for source in sources])
    with torch.no_grad():
        return generator.repeat(generator.mapping(z.to(generator.conv1.conv.weight)))


def for_samples(offsets: Mapping[int, Tensor], count: int) -> dict[int, Tensor]:
    """Repeat every picture's offsets for `count` latents each, in the order of `random_w`; those of one picture serve any number."""
    return {i: offset if 1 in (count, len(offset)) else offset.repeat_interleave(count, 0) for i, offset in offsets.items()}


def rows_of(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Return these rows, without a copy where they are all."""
    return values if list(rows) == list(range(len(values))) else values[list(rows)]


def check_lockstep(what: str, lockstep: int) -> None:
    """Raise ValueError for a group without a picture."""
    if lockstep < 1:
        raise ValueError(f"{what}: lockstep must be 1 or more, found {lockstep}")


def batched(offsets: Sequence[Mapping[int, Tensor]]) -> dict[int, Tensor]:
    """Join the offsets (A, O, I, k, k) of groups of pictures into those of a batch."""
    return {index: torch.cat([each[index] for each in offsets]) for index in offsets[0]} if offsets else {}
