"""Editors that optimise each picture's latents for a text: StyleCLIP's latent optimisation and TediGAN's.

Shape legend: B batch, A pictures that are moved together, L latent slots, D style width, E embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from models.instruction import Instruction
from models.inversion import Inversion
from models.losses.clip import global_clip_loss
from models.optimisation import Judged, OnStep, Progress, check_lockstep, descend, gradients
from models.perceptual import PerceptualDistance
from models.reference import wanted
from models.similarity import Similarity, SimilarityWeights
from models.state import GeneratorState
from models.stylegan2 import Generator

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from models.clip import ClipModel
    from models.pack import Pack


@dataclass(frozen=True, kw_only=True)
class StyleClipSettings:
    """Settings of styleclip_optimisation (StyleCLIP section 4). `ramp_up` is the share of the steps in which the rate rises.

    `l2` weighs the squared distance that latents moved, summed over all slots; `identity` the similarity to the inversion. Differs from the
    release: the rate does not fall in the last quarter, and the best latents are kept, not the last. Raises ValueError.
    """

    steps: int = 300
    learning_rate: float = 0.1
    ramp_up: float = 0.05
    clip: float = 1.0
    l2: float = 0.008
    identity: float = 0.005
    lockstep: int = 16

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class TediGanSettings(StyleClipSettings):
    """Settings of tedigan (TediGAN-B, its release's text-guided mode): the picture stays close to the inversion, in pixels and LPIPS.

    Differs: LPIPS in place of the release's VGG features, whose weights cannot ship; no term that asks an encoder for the same latents.
    Raises ValueError.
    """

    steps: int = 200
    learning_rate: float = 0.01
    ramp_up: float = 0.0
    clip: float = 2.0
    l2: float = 0.0
    identity: float = 0.0
    pixel: float = 1.0
    lpips: float = 0.2


def _check(settings: StyleClipSettings) -> None:
    check_lockstep("optimising for a text", settings.lockstep)
    if settings.steps < 1 or not settings.learning_rate > 0 or not 0 <= settings.ramp_up <= 1:
        found = f"{settings.steps}, {settings.learning_rate} and {settings.ramp_up}"
        raise ValueError(f"steps, learning_rate and ramp_up: expected 1 or more, above 0 and a share from 0 to 1, found {found}")
    if not settings.clip > 0:
        raise ValueError(f"clip: expected a weight above 0, found {settings.clip}")
    for name in ("l2", "identity", "pixel", "lpips"):
        if not getattr(settings, name, 0.0) >= 0:
            raise ValueError(f"{name}: expected a weight of 0 or more, found {getattr(settings, name)}")


SETTINGS: Mapping[str, type] = {"styleclip_optimisation": StyleClipSettings, "tedigan": TediGanSettings}


class TextOptimisation:
    """Edit by descent on the latents: towards the target text by global CLIP loss, held back by how far latents and picture have moved.

    Source: StyleCLIP eq. 1, StyleGAN's latents in W+; TediGAN-B. The instruction's strength walks from the latents given to those found, so
    0 changes nothing. The source text is not read.
    """

    def __init__(
        self, name: str, *, generator: Generator, clip: ClipModel, kept: Similarity | None, settings: StyleClipSettings,
        on_step: OnStep | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.generator = generator
        self.clip = clip
        self.kept = kept
        self.settings = settings
        self.on_step = on_step

    @staticmethod
    def settings_of(name: str) -> type:
        """Return the settings of the method `name`."""
        return SETTINGS[name]

    @classmethod
    def of(cls, name: str, pack: Pack, settings: StyleClipSettings) -> Self:
        """Return the editor on a pack's networks; a term whose network the pack lacks is left out."""
        weights = SimilarityWeights(
            pixel=getattr(settings, "pixel", 0.0), lpips=getattr(settings, "lpips", 0.0), identity=settings.identity, parsing=0.0
        )
        lpips = PerceptualDistance(device=pack.device) if weights.lpips > 0 else None
        identity = pack.identity() if weights.identity > 0 and "identity" in pack.info.networks else None
        able = weights.pixel > 0 or lpips is not None or identity is not None
        kept = Similarity(weights, lpips=lpips, identity=identity) if able else None
        if weights.identity > 0 and identity is None:
            logger.warning("editor %r: the pack has no identity network, so nothing but the latents holds back the person", name)
        return cls(name, generator=pack.generator(), clip=pack.clip(), kept=kept, settings=settings)

    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with optimised latents; offsets stay. Raises ValueError when the text is longer than CLIP reads."""
        state = inversion.state
        progress = Progress(self.on_step, pictures=len(state), steps=self.settings.steps)
        with gradients():
            target_1E = wanted(self.clip, instruction).detach().clone()
            pictures = inversion.made_BCHW.detach().clone().clamp(-1, 1)
            n = self.settings.lockstep
            found = [
                self._group(state.slice(first, first + n), pictures[first : first + n], target_1E, progress=progress, first=first)
                for first in range(0, len(state), n)
            ]
        start_BLD = state.latents_BLD
        return replace(state, latents_BLD=start_BLD + instruction.strength * (torch.cat(found).to(start_BLD) - start_BLD))

    def _group(self, state: GeneratorState, image_ACHW: Tensor, target_1E: Tensor, *, progress: Progress, first: int) -> Tensor:
        settings = self.settings
        start_ALD = state.latents_BLD.detach().clone()
        leaves = [latents.clone().requires_grad_() for latents in start_ALD.split(1)]
        with torch.no_grad():
            wanted = self.kept.see(image_ACHW) if self.kept is not None else None

        def judge(rows: Sequence[int], step: int) -> Judged:
            """Judge all pictures of the group: none stops before the others."""
            latents_ALD = torch.cat(leaves)
            made = self.generator.synthesis(latents_ALD, state.offsets).clamp(-1, 1)
            loss_A = settings.clip * global_clip_loss(self.clip.embed_images(made), target_1E)
            loss_A = loss_A + settings.l2 * (latents_ALD - start_ALD).square().sum((1, 2))
            if self.kept is not None and wanted is not None:
                loss_A = loss_A + self.kept(made, wanted)
            return Judged(objective_A=loss_A, quality_A=loss_A.detach(), reached_A=torch.zeros_like(loss_A, dtype=torch.bool))

        found = descend(
            [[leaf] for leaf in leaves], judge, optimizer=torch.optim.Adam(leaves, lr=settings.learning_rate), steps=settings.steps,
            rate=self._rate, report=lambda rows, losses, steps: progress.advance([first + row for row in rows], losses, steps=steps),
        )  # fmt: skip
        return torch.cat([leaf for (leaf,) in found.parameters])

    def _rate(self, step: int) -> float:
        ramp = self.settings.ramp_up * self.settings.steps
        return self.settings.learning_rate * (min(1.0, (step + 1) / ramp) if ramp else 1.0)
