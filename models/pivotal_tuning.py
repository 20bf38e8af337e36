"""Pivotal tuning: a latent where edits work, and a generator whose weights are tuned until that latent shows the picture.

Shape legend: B batch, C channels, L latent slots, D style width, N random latents.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.inverters import Inverter
from models.optimisation import (
    Judged,
    OnStep,
    Progress,
    batched,
    check_stop,
    descend,
    gradients,
    judged,
    mean_slots,
    picture_sources,
    random_w,
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
    does. Differs: the release's projector overrides the paper's learning rate of 5e-3 by a ramp up to 0.01. Raises ValueError.
    """

    pivot: ProjectionConfig = field(default_factory=lambda: ProjectionConfig(steps=450, learning_rate=5e-3))
    steps: int = 350
    learning_rate: float = 3e-4
    stop_lpips: float | None = 0.06
    locality: LocalityConfig | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"PTI: steps must be 1 or more, found {self.steps}")


class PivotalTuning:
    """Invert by a pivot, from `encoder` or by projection into W, and by tuning the generator around it, one picture after the other.

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
        sources = picture_sources(images_BCHW)
        offsets = [
            self._tuned(image, pivot, source=source, progress=progress, row=row)
            for row, (image, pivot, source) in enumerate(zip(images_BCHW.split(1), pivots_BLD.split(1), sources, strict=True))
        ]
        return GeneratorState(latents_BLD=pivots_BLD, offsets=batched(offsets))

    def _tuned(self, image_1CHW: Tensor, pivot_1LD: Tensor, *, source: torch.Generator, progress: Progress, row: int) -> dict[int, Tensor]:
        config = self.config
        indices = [conv.layer.index for conv in self.generator.convolutions()]
        leaves = [torch.zeros_like(conv.weight).requires_grad_() for conv in self.generator.convolutions()]
        with torch.no_grad():
            wanted = self.similarity.see(image_1CHW)

        def judge(rows: object, step: int) -> Judged:
            offsets = dict(zip(indices, leaves, strict=True))
            made = self.generator.synthesis(pivot_1LD, offsets)
            local = config.locality is not None and step % config.locality.every == 0
            more = (lambda: self._drift(pivot_1LD, offsets, source=source)) if local else None
            return judged(self.similarity, made, wanted, stop_lpips=config.stop_lpips, more=more)

        found = descend(
            [leaves], judge, optimizer=torch.optim.Adam(leaves, lr=config.learning_rate), steps=config.steps,
            report=lambda rows, losses, steps: progress.advance([row] if rows else [], losses, steps=steps),
        )  # fmt: skip
        return dict(zip(indices, found.parameters[0], strict=True))

    def _drift(self, pivot_1LD: Tensor, offsets: dict[int, Tensor], *, source: torch.Generator) -> Tensor:
        """Return how far the tuned generator is from the original at random latents near the pivot, a number (PTI eq. 4 and 5)."""
        locality, local = self.config.locality, self.local
        assert locality is not None and local is not None
        near_NLD = near_pivot(self.generator, pivot_1LD, mean_1LD=self.mean_1LD, locality=locality, source=source)
        with torch.no_grad():
            original = local.see(self.generator.synthesis(near_NLD))
        return local(self.generator.synthesis(near_NLD, offsets), original).mean()


def near_pivot(generator: Generator, pivot_1LD: Tensor, *, mean_1LD: Tensor, locality: LocalityConfig, source: torch.Generator) -> Tensor:
    """Return latents (N, L, D) at the distance `alpha` from the pivot, in the directions of random ones."""
    random_NLD = mean_1LD + locality.truncation * (random_w(generator, locality.samples, source=source) - mean_1LD)
    direction_NLD = random_NLD - pivot_1LD
    return pivot_1LD + locality.alpha * direction_NLD / direction_NLD.flatten(1).norm(dim=1)[:, None, None]
