"""Projection: the latent in W or W+ whose picture is closest to the one given, found by descent.

Shape legend: B batch, A running pictures, L latent slots, D style width, S latents that are moved (1 in W, L in W+).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.inverters import Inverter
from models.optimisation import Judged, OnStep, Progress, check_stop, descend, gradients, judged, mean_slots, picture_sources, targets
from models.similarity import Similarity, SimilarityWeights
from models.state import GeneratorState
from models.stylegan2 import Generator

WEIGHTS = SimilarityWeights(pixel=1.0, lpips=1.0, identity=0.0, parsing=0.0)
STD_SEED = 123


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """Set a projection; the defaults are StyleGAN2's (appendix D): lengths are shares of `steps`, `noise` of the latents' own spread.

    `start` "encoder" begins at an encoder's latents instead of the mean. A picture stops when its LPIPS is at most `stop_lpips`, but not
    before the latent noise has ended. `lockstep` pictures are moved at a time, which bounds the memory; sums over another number of
    pictures round otherwise, which a descent of 100 steps enlarges to half a percent of the latents' range, and 1 rules out.
    Raises ValueError.
    """

    space: Literal["w", "w+"] = "w"
    steps: int = 1000
    learning_rate: float = 0.1
    ramp_up: float = 0.05
    ramp_down: float = 0.25
    noise: float = 0.05
    noise_ramp: float = 0.75
    start: Literal["mean", "encoder"] = "mean"
    stop_lpips: float | None = None
    lockstep: int = 16

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lockstep < 1:
            raise ValueError(f"projection: steps and lockstep must be 1 or more, found {self.steps} and {self.lockstep}")
        shares = {"ramp_up": self.ramp_up, "ramp_down": self.ramp_down, "noise_ramp": self.noise_ramp}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"projection: {name} is a share of the steps, from 0 to 1, found {share}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: up in a line, down along a cosine."""
        t = step / self.steps
        down = min(1.0, (1 - t) / self.ramp_down) if self.ramp_down else 1.0
        up = min(1.0, t / self.ramp_up) if self.ramp_up else 1.0
        return self.learning_rate * (0.5 - 0.5 * math.cos(math.pi * down)) * up

    def noise_scale(self, step: int) -> float:
        """Return the standard deviation of the noise on the latents in a step, as a share of the latents' own."""
        t = step / self.steps
        return self.noise * max(0.0, 1 - t / self.noise_ramp) ** 2 if self.noise_ramp else 0.0

    @property
    def settled(self) -> int:
        """The first step without noise on the latents: from there on a loss says how good the latents are."""
        return math.ceil(self.noise_ramp * self.steps) if self.noise else 0


class Projection:
    """Invert into W or W+ by descent on the latents, the generator as it is.

    Source: StyleGAN2 appendix D; W+ as in Image2StyleGAN. Differs: the generator's noises are its fixed buffers, so they are not optimised
    and need no regularisation; LPIPS rests on AlexNet, with a pixel term; of the latents after the noise has ended the best are returned,
    not the last.
    """

    def __init__(
        self, name: str, *, generator: Generator, similarity: Similarity, mean_latent: Tensor, config: ProjectionConfig | None = None,
        encoder: Inverter | None = None, on_step: OnStep | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.generator = generator
        self.similarity = similarity
        self.mean_1LD = mean_slots(mean_latent, generator, name=name)
        self.config = config or ProjectionConfig()
        self.encoder = encoder
        self.on_step = on_step
        self._std: float | None = None
        if self.config.start == "encoder" and encoder is None:
            raise ValueError(f"inverter {name!r}: start is 'encoder', but no encoder is given")
        check_stop(name, similarity, self.config.stop_lpips)

    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return latents only; in W the same one in every slot."""
        progress = Progress(self.on_step, pictures=len(images_BCHW), steps=self.config.steps)
        return GeneratorState(latents_BLD=self.project(images_BCHW, progress=progress))

    def project(self, images_BCHW: Tensor, *, progress: Progress) -> Tensor:
        """Return the latents (B, L, D), a group of `lockstep` pictures after the other."""
        with gradients():
            images = targets(self.name, images_BCHW, size=self.generator.size)
            groups = images.split(self.config.lockstep)
            found = [self._group(group, progress, first=i * self.config.lockstep) for i, group in enumerate(groups)]
            return torch.cat(found) if found else self.mean_1LD[:0]

    def _group(self, images_BCHW: Tensor, progress: Progress, *, first: int) -> Tensor:
        config = self.config
        with torch.no_grad():
            wanted = self.similarity.see(images_BCHW)
        leaves = [start.clone().requires_grad_() for start in self._starts(images_BCHW).split(1)]
        sources = picture_sources(images_BCHW)

        def judge(rows: Sequence[int], step: int) -> Judged:
            latents = torch.cat([leaves[row] for row in rows])
            if scale := config.noise_scale(step):
                noise = torch.cat([torch.randn(leaves[row].shape, generator=sources[row]) for row in rows])
                latents = latents + noise.to(latents) * (scale * self.latent_std())
            made = self.generator.synthesis(self._slots(latents))
            return judged(self.similarity, made, wanted.rows(rows), stop_lpips=config.stop_lpips)

        found = descend(
            [[leaf] for leaf in leaves], judge, optimizer=torch.optim.Adam(leaves, lr=config.learning_rate, betas=(0.9, 0.999)),
            steps=config.steps, rate=config.rate, settled=config.settled,
            report=lambda rows, losses, steps: progress.advance([first + row for row in rows], losses, steps=steps),
        )  # fmt: skip
        return self._slots(torch.cat([leaf for (leaf,) in found.parameters])).contiguous()

    def _starts(self, images_BCHW: Tensor) -> Tensor:
        """Return where the descent begins, (B, S, D)."""
        if self.config.start == "encoder" and self.encoder is not None:
            start_BLD = self.encoder.invert(images_BCHW).latents_BLD.detach()
        else:
            start_BLD = self.mean_1LD.expand(len(images_BCHW), -1, -1)
        return start_BLD if self.config.space == "w+" else start_BLD.mean(1, keepdim=True)

    def _slots(self, latents_BSD: Tensor) -> Tensor:
        return latents_BSD.expand(-1, self.generator.n_latents, -1)

    def latent_std(self, n: int = 10_000) -> float:
        """Return the root mean squared distance of `n` mapped normal draws from their mean."""
        if self._std is None:
            z = torch.randn(n, self.generator.style_dim, generator=torch.Generator().manual_seed(STD_SEED))
            with torch.no_grad():
                w = torch.cat([self.generator.mapping(part.to(self.mean_1LD)) for part in z.split(4096)])
            self._std = float((w - w.mean(0)).square().sum(1).mean().sqrt())
        return self._std
