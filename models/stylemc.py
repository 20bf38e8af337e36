"""StyleMC: one direction of StyleSpace per target text, found on random pictures in seconds and used for all people.

Shape legend: B batch, E embedding, S style channels of all convolutions (models/style_space.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from models.instruction import Instruction
from models.inversion import Inversion
from models.losses import global_clip_loss, identity_loss
from models.optimisation import gradients, random_w
from models.state import GeneratorState
from models.style_space import restyled, style_spread
from models.stylegan2 import Generator

if TYPE_CHECKING:
    from models.clip import ClipModel
    from models.pack import Pack
    from models.perception import IdentityNet

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StyleMcSettings:
    """Settings of StyleMC; `l2` weighs the mean squared change in standard deviations of each channel. Raises ValueError."""

    steps: int = 60
    batch: int = 8
    learning_rate: float = 0.05
    clip: float = 1.0
    identity: float = 0.6
    l2: float = 0.0
    gain: float = 1.0
    """What the direction found is multiplied by."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.learning_rate > 0:
            found = f"{self.steps}, {self.batch} and {self.learning_rate}"
            raise ValueError(f"steps, batch and learning_rate: expected 1 or more twice and above 0, found {found}")
        if not self.clip > 0 or not self.gain > 0:
            raise ValueError(f"clip and gain: expected above 0, found {self.clip} and {self.gain}")
        for name in ("identity", "l2"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a weight of 0 or more, found {getattr(self, name)}")


class StyleMcEditor:
    """Edit along one direction per target text, times the instruction's strength; the source text is not read.

    Source: StyleMC eq. 1-4. A direction is found when it is first needed. Differs: whole pictures, not those of a low resolution; steps in
    standard deviations of each channel; a new batch of random latents in every step; an L2 term that may be switched on.
    """

    Settings = StyleMcSettings

    def __init__(
        self, name: str, *, generator: Generator, clip: ClipModel, identity: IdentityNet | None, settings: StyleMcSettings
    ) -> None:  # fmt: skip
        self.name = name
        self.generator = generator
        self.clip = clip
        self.identity = identity
        self.settings = settings
        self._changes: dict[str, Tensor] = {}

    @classmethod
    def of(cls, name: str, pack: Pack, settings: StyleMcSettings) -> Self:
        """Return the editor on a pack's networks; without an identity network nothing holds the person."""
        identity = pack.identity() if settings.identity > 0 and "identity" in pack.info.networks else None
        if settings.identity > 0 and identity is None:
            logger.warning("editor %r: the pack has no identity network, so nothing holds back the person", name)
        return cls(name, generator=pack.generator(), clip=pack.clip(), identity=identity, settings=settings)

    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with the direction as offsets. Raises ValueError when the text is longer than CLIP reads."""
        target = instruction.target
        if target not in self._changes:
            self._changes[target] = self.settings.gain * self._found(target)
        with torch.no_grad():
            return restyled(self.generator, inversion.state, instruction.strength * self._changes[target])

    def _found(self, target: str) -> Tensor:
        """Return the change of the styles (1, S) that brings random pictures to a text."""
        settings, source = self.settings, torch.Generator().manual_seed(self.settings.seed)
        with gradients():
            target_1E = self.clip.embed_texts([target]).detach().clone()
            _, std_S = style_spread(self.generator)
            change_1S = torch.zeros_like(std_S)[None].requires_grad_()
            optimizer = torch.optim.Adam([change_1S], lr=settings.learning_rate)
            for _ in range(settings.steps):
                state = GeneratorState(latents_BLD=random_w(self.generator, settings.batch, sources=[source]))
                loss = self._loss(state, change_1S * std_S, target_1E) + settings.l2 * change_1S.square().mean()
                (change_1S.grad,) = torch.autograd.grad(loss, [change_1S])
                optimizer.step()
            return (change_1S * std_S).detach()

    def _loss(self, state: GeneratorState, change_1S: Tensor, target_1E: Tensor) -> Tensor:
        settings = self.settings
        made = self.generator(restyled(self.generator, state, change_1S)).clamp(-1, 1)
        loss = settings.clip * global_clip_loss(self.clip.embed_images(made), target_1E).mean()
        if self.identity is not None and settings.identity > 0:
            with torch.no_grad():
                who = self.identity(self.generator(state).clamp(-1, 1))
            loss = loss + settings.identity * identity_loss(self.identity(made), who)
        return loss
