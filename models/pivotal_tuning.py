"""Pivotal tuning: a latent where edits work, and a generator whose weights are tuned until that latent shows the picture.

Shape legend: B batch, A pictures that are tuned together, C channels, L latent slots, D style width, N random latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.inverters import Inverter
from models.optimisation import (
    Judged,
    OnStep,
    Progress,
    batched,
    check_lockstep,
    check_stop,
    descend,
    for_samples,
    gradients,
    judged,
    mean_slots,
    picture_sources,
    random_w,
    rows_of,
    targets,
)
from models.projection import Projection, ProjectionConfig
from models.similarity import Similarity, SimilarityWeights
from models.state import GeneratorState
from models.stylegan2 import Generator

WEIGHTS = SimilarityWeights(pixel=1.0, lpips=1.0, identity=0.0, parsing=0.0)


@dataclass(frozen=True, kw_only=True)
class LocalityConfig:
    """Set PTI's regulariser (PTI section 3.3 and its release).

    `alpha` is the distance from the pivot over all slots together; random latents are first moved towards the mean by `truncation`.
    """

    weights: SimilarityWeights = field(default_factory=lambda: SimilarityWeights(pixel=0.1, lpips=0.1, identity=0.0, parsing=0.0))
    alpha: float = 30.0
    truncation: float = 0.5
    samples: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1 or self.every < 1:
            raise ValueError(f"PTI locality: samples and every must be 1 or more, found {self.samples} and {self.every}")


@dataclass(frozen=True, kw_only=True)
class PivotalTuningConfig:
    """Set PTI; the defaults are its paper's. `pivot` is not used when an encoder gives the pivot.

    A picture stops when its LPIPS is at most `stop_lpips`; None never stops. `locality` None leaves the regulariser out, as the release
    does. `lockstep` pictures are tuned together, each by itself. Differs: the release's projector overrides the paper's learning rate of
    5e-3 by a ramp up to 0.01. Raises ValueError.
    """

    pivot: ProjectionConfig = field(default_factory=lambda: ProjectionConfig(steps=450, learning_rate=5e-3))
    steps: int = 350
    learning_rate: float = 3e-4
    stop_lpips: float | None = 0.06
    locality: LocalityConfig | None = None
    lockstep: int = 4

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"PTI: steps must be 1 or more, found {self.steps}")
        check_lockstep("PTI", self.lockstep)


class PivotalTuning:
    """Invert by a pivot, from `encoder` or by projection into W, and by tuning the generator around it, each picture's by itself.

    Source: PTI sections 3.1 to 3.3. Differs: only the convolutions' weights are tuned, toRGB included, as the factors `1 + offset` that a
    generator state holds, with Adam on the offsets; PTI tunes the weights themselves, and biases, style maps, noise strengths and the
    constant input too. As StyleGAN2's weights have unit scale, one learning rate moves both alike; a weight of exactly zero stays zero.
    """

    def __init__(
        self, name: str, *, generator: Generator, similarity: Similarity, mean_latent: Tensor, config: PivotalTuningConfig | None = None,
        encoder: Inverter | None = None, on_step: OnStep | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.generator = generator
        self.similarity = similarity
        self.config = config or PivotalTuningConfig()
        self.encoder = encoder
        self.on_step = on_step
        self.mean_1LD = mean_slots(mean_latent, generator, name=name)
        self.projection = Projection(name, generator=generator, similarity=similarity, mean_latent=mean_latent, config=self.config.pivot)
        self.local = None if self.config.locality is None else similarity.weighted(self.config.locality.weights)
        check_stop(name, similarity, self.config.stop_lpips)

    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return the pivots and an offset for every convolution."""
        steps = self.config.steps + (self.config.pivot.steps if self.encoder is None else 0)
        progress = Progress(self.on_step, pictures=len(images_BCHW), steps=steps)
        with gradients():
            images = targets(self.name, images_BCHW, size=self.generator.size)
            pivots_BLD = self._pivots(images, progress)
            return self.tune(images, pivots_BLD, progress=progress)

    def _pivots(self, images_BCHW: Tensor, progress: Progress) -> Tensor:
        if self.encoder is None:
            return self.projection.project(images_BCHW, progress=progress)
        return self.encoder.invert(images_BCHW).latents_BLD.detach().clone()

    def tune(self, images_BCHW: Tensor, pivots_BLD: Tensor, *, progress: Progress) -> GeneratorState:
        """Return the state whose offsets make the pivots show the pictures."""
        n = self.config.lockstep
        groups = enumerate(zip(images_BCHW.split(n), pivots_BLD.split(n), strict=True))
        offsets = [self._tuned(images, pivots, progress=progress, first=i * n) for i, (images, pivots) in groups]
        return GeneratorState(latents_BLD=pivots_BLD, offsets=batched(offsets))

    def _tuned(self, image_ACHW: Tensor, pivot_ALD: Tensor, *, progress: Progress, first: int) -> dict[int, Tensor]:
        config, sources = self.config, picture_sources(image_ACHW)
        convolutions = self.generator.convolutions()
        leaves = [[torch.zeros_like(conv.weight).requires_grad_() for conv in convolutions] for _ in sources]
        with torch.no_grad():
            wanted = self.similarity.see(image_ACHW)

        def joined(parameters: Sequence[Sequence[Tensor]]) -> dict[int, Tensor]:
            return {conv.layer.index: torch.cat(rows) for conv, *rows in zip(convolutions, *parameters, strict=True)}

        def judge(rows: Sequence[int], step: int) -> Judged:
            offsets, pivots = joined([leaves[row] for row in rows]), rows_of(pivot_ALD, rows)
            made = self.generator.synthesis(pivots, offsets)
            local = config.locality is not None and step % config.locality.every == 0
            more = (lambda: self._drift(pivots, offsets, sources=[sources[row] for row in rows])) if local else None
            return judged(self.similarity, made, wanted.rows(rows), stop_lpips=config.stop_lpips, more=more)

        found = descend(
            leaves, judge, optimizer=torch.optim.Adam([leaf for row in leaves for leaf in row], lr=config.learning_rate),
            steps=config.steps,
            report=lambda rows, losses, steps: progress.advance([first + row for row in rows], losses, steps=steps),
        )  # fmt: skip
        return joined(found.parameters)

    def _drift(self, pivot_ALD: Tensor, offsets: Mapping[int, Tensor], *, sources: Sequence[torch.Generator]) -> Tensor:
        """Return how far the tuned generators are from the original at random latents near the pivots, (A,) (PTI eq. 4 and 5)."""
        locality, local = self.config.locality, self.local
        assert locality is not None and local is not None
        near = near_pivot(self.generator, pivot_ALD, mean_1LD=self.mean_1LD, locality=locality, sources=sources)
        with torch.no_grad():
            original = local.see(self.generator.synthesis(near))
        moved = local(self.generator.synthesis(near, for_samples(offsets, locality.samples)), original)
        return moved.unflatten(0, (len(sources), -1)).mean(1)


def near_pivot(
    generator: Generator, pivot_ALD: Tensor, *, mean_1LD: Tensor, locality: LocalityConfig, sources: Sequence[torch.Generator]
) -> Tensor:
    """Return latents (A * N, L, D), N for each pivot at the distance `alpha` from it, in the directions of random ones."""
    random_w_ANLD = mean_1LD + locality.truncation * (random_w(generator, locality.samples, sources=sources) - mean_1LD)
    pivots = pivot_ALD.repeat_interleave(locality.samples, 0)
    direction = random_w_ANLD - pivots
    return pivots + locality.alpha * direction / direction.flatten(1).norm(dim=1)[:, None, None]
