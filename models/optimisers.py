"""Make the inverters that optimise of a pack: their settings, flat enough for a command line, and the networks that judge them.

The defaults are the papers', which are for 256 to 1024 pixels; `configs/invert/` has presets for the portraits pack. Terms of the loss
whose network a pack lacks are left out, which is logged; the identity term takes MoCo where there is no identity network (off faces).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from torch import nn

from models import gani, pivotal_tuning, projection
from models.gani import Gani, GaniConfig
from models.gradient_modification import ModuleConfig, Norm
from models.inverters import Inverter
from models.official_perception import MoCo
from models.parser import FaceParser
from models.perceptual import PerceptualDistance
from models.pivotal_tuning import LocalityConfig, PivotalTuning, PivotalTuningConfig
from models.projection import Projection, ProjectionConfig
from models.similarity import Similarity, SimilarityWeights

if TYPE_CHECKING:
    from models.pack import Pack

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProjectionSettings:
    """Settings of w_projection and wplus_projection; `identity` (or MoCo) weighs a term that the papers' projections lack."""

    steps: int = ProjectionConfig.steps
    learning_rate: float = ProjectionConfig.learning_rate
    stop_lpips: float | None = ProjectionConfig.stop_lpips
    start: Literal["mean", "encoder"] = ProjectionConfig.start
    lockstep: int = ProjectionConfig.lockstep
    identity: float = projection.WEIGHTS.identity


@dataclass(frozen=True, kw_only=True)
class PtiSettings:
    """Settings of pti; `locality` switches its regulariser on, both terms of which weigh `locality_weight`; PTI has no `identity`."""

    pivot_steps: int = 450
    pivot_rate: float = 5e-3
    steps: int = PivotalTuningConfig.steps
    learning_rate: float = PivotalTuningConfig.learning_rate
    stop_lpips: float | None = PivotalTuningConfig.stop_lpips
    locality: bool = False
    locality_alpha: float = LocalityConfig.alpha
    locality_truncation: float = LocalityConfig.truncation
    locality_samples: int = LocalityConfig.samples
    locality_every: int = LocalityConfig.every
    locality_weight: float = 0.1
    lockstep: int = PivotalTuningConfig.lockstep
    identity: float = pivotal_tuning.WEIGHTS.identity


@dataclass(frozen=True, kw_only=True)
class GaniSettings:
    """Settings of gani; the weights are those of eq. 1, `localisation` lambda of eq. 5, `blocks` those of a module."""

    steps: int = GaniConfig.steps
    learning_rate: float = GaniConfig.learning_rate
    pixel: float = gani.WEIGHTS.pixel
    lpips: float = gani.WEIGHTS.lpips
    identity: float = gani.WEIGHTS.identity
    parsing: float = gani.WEIGHTS.parsing
    localisation: float = GaniConfig.localisation
    samples: int = GaniConfig.samples
    blocks: int = ModuleConfig.blocks
    slope: float = ModuleConfig.slope
    factor: float = ModuleConfig.factor
    pre_norm: Norm = ModuleConfig.pre_norm
    post_norm: Norm = ModuleConfig.post_norm
    stop_lpips: float | None = GaniConfig.stop_lpips
    lockstep: int = GaniConfig.lockstep


SETTINGS: Mapping[str, type] = {
    "w_projection": ProjectionSettings, "wplus_projection": ProjectionSettings, "pti": PtiSettings, "gani": GaniSettings,
}  # fmt: skip


def build(name: str, pack: Pack, settings: object, *, start: Inverter | None) -> Inverter:
    """Return the inverter; `start` gives its first latents where it does not begin at the mean. Raises ValueError for wrong settings."""
    if isinstance(settings, ProjectionSettings):
        config = ProjectionConfig(
            space="w" if name == "w_projection" else "w+", steps=settings.steps, learning_rate=settings.learning_rate,
            start=settings.start, stop_lpips=settings.stop_lpips, lockstep=settings.lockstep,
        )  # fmt: skip
        judged = _judged(name, pack, replace(projection.WEIGHTS, identity=settings.identity))
        return Projection(name, **judged, config=config, encoder=start)  # type: ignore[arg-type]
    if isinstance(settings, PtiSettings):
        # Latents need little memory.
        together = 1 if settings.lockstep == 1 else max(ProjectionConfig.lockstep, settings.lockstep)
        locality = _locality(settings) if settings.locality else None
        tuning = PivotalTuningConfig(
            pivot=ProjectionConfig(steps=settings.pivot_steps, learning_rate=settings.pivot_rate, lockstep=together),
            steps=settings.steps, learning_rate=settings.learning_rate, stop_lpips=settings.stop_lpips, locality=locality,
            lockstep=settings.lockstep,
        )  # fmt: skip
        judged = _judged(name, pack, replace(pivotal_tuning.WEIGHTS, identity=settings.identity))
        return PivotalTuning(name, **judged, config=tuning)  # type: ignore[arg-type]
    assert isinstance(settings, GaniSettings)
    weights = SimilarityWeights(pixel=settings.pixel, lpips=settings.lpips, identity=settings.identity, parsing=settings.parsing)
    tuning_by_modules = GaniConfig(
        steps=settings.steps, learning_rate=settings.learning_rate, localisation=settings.localisation, samples=settings.samples,
        stop_lpips=settings.stop_lpips, lockstep=settings.lockstep,
        modules=ModuleConfig(
            blocks=settings.blocks, pre_norm=settings.pre_norm, post_norm=settings.post_norm, slope=settings.slope, factor=settings.factor
        ),
    )  # fmt: skip
    return Gani(name, **_judged(name, pack, weights), config=tuning_by_modules, encoder=start)  # type: ignore[arg-type]


def _locality(settings: PtiSettings) -> LocalityConfig:
    weights = SimilarityWeights(pixel=settings.locality_weight, lpips=settings.locality_weight, identity=0.0, parsing=0.0)
    return LocalityConfig(
        weights=weights, alpha=settings.locality_alpha, truncation=settings.locality_truncation, samples=settings.locality_samples,
        every=settings.locality_every,
    )  # fmt: skip


def _judged(name: str, pack: Pack, weights: SimilarityWeights) -> dict[str, object]:
    """Return generator, mean latent and the similarity of a pack's networks; terms whose network it lacks are left out."""
    parser = pack.network("parser", FaceParser) if "parser" in pack.info.networks and weights.parsing > 0 else None
    lpips = PerceptualDistance(device=pack.device) if weights.lpips > 0 else None
    similarity = Similarity(weights, lpips=lpips, identity=_embedder(pack) if weights.identity > 0 else None, parser=parser)
    if similarity.missing:
        logger.warning("inverter %r: this pack lacks the networks of these terms, left out: %s", name, ", ".join(similarity.missing))
    return {"generator": pack.generator(), "mean_latent": pack.mean_latent(), "similarity": similarity}


def _embedder(pack: Pack) -> nn.Module | None:
    """Return what says whether two pictures show the same: the identity network, else MoCo, as in the papers off faces, else None."""
    if "identity" in pack.info.networks:
        return pack.identity()
    return pack.network("moco", MoCo) if "moco" in pack.info.networks else None
