"""What the trainings of all inverters share: pictures to invert, how an inversion is judged, and the numbers that it reaches.

An inverter is trained on rendered portraits, whose codes in W are known, or on pictures from shards.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.inverters import Inverter
from models.perception import AttributeNet, IdentityNet
from models.stylegan2 import Generator
from portraits import parameters_from_latent, sample_parameters
from training.data import SEEDS, VALIDATION, aligned_bank, seeded, to_float, wear
from training.kinds.generator import portrait_latents
from training.objective import Objective, Setting, Split
from training.share import Share


class InversionConfig(Protocol):
    """Settings that every inverter's training has."""

    @property
    def pictures(self) -> int:
        """Portraits that are rendered to train on, where none come from shards."""

    @property
    def batch(self) -> int:
        """Pictures of one optimiser step."""

    @property
    def seed(self) -> int:
        """Seed of all randomness."""

    @property
    def measured(self) -> int:
        """Held-out portraits that the numbers rest on."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures in [-1, 1] as given and as worn, their codes in W where `known_B` is 1, and the step that they are drawn for."""

    image_BCHW: Tensor
    worn_BCHW: Tensor
    code_BD: Tensor
    known_B: Tensor
    step: int


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The networks that training leans on; `attributes` and `threshold` only where the pack has them."""

    generator: Generator
    mean_latent: Tensor
    identity: IdentityNet
    attributes: AttributeNet | None
    threshold: float

    @classmethod
    def of(cls, setting: Setting) -> Frozen:
        """Take them out of the setting's pack."""
        pack = setting.needed("an inverter's training")
        return cls(
            generator=pack.generator(), mean_latent=pack.mean_latent(), identity=pack.identity(),
            attributes=pack.attributes() if "attributes" in pack.info.networks else None,
            threshold=pack.info.networks["identity"].numbers.get("threshold_far1", 0.0),
        )  # fmt: skip


class InversionObjective(Objective[Batch]):
    """Draw pictures to invert, and measure the inverter that `net` makes; subclasses say what is lost."""

    wear_amount = 0.5
    """How strongly the pictures are worn that go in (training/data.py: wear)."""
    own_every = 3
    """Every how many pictures one of the generator's own is drawn; 0 draws none."""

    def __init__(self, config: InversionConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.inversion, self.batch, self.seed = config, config.batch, config.seed
        self.frozen = Frozen.of(setting)
        self.ahead = 2 if setting.pictures is not None else 0

    @abstractmethod
    def inverter(self) -> Inverter:
        """Return the inverter that `net` makes with the frozen networks."""

    def prepare(self) -> None:
        """Render the training portraits, unless pictures come from shards."""
        if self.setting.pictures is None:
            size, dim = self.frozen.generator.size, self.frozen.generator.style_dim
            p = parameters_from_latent(torch.randn(self.inversion.pictures, dim, generator=seeded(self.seed)))
            self.bank, self.known = aligned_bank(p, size=size, seed=self.seed, jitter=0.008), portrait_latents(p, dim)

    def draw(self, share: Share) -> Batch:
        """Draw pictures; every third, where `own_every` says so, is the generator's own."""
        own = share.places % self.own_every == 0 if self.own_every else torch.zeros(share.count, dtype=torch.bool)
        if self.setting.pictures is None:
            rows = share.rows(len(self.bank))
            image, code, known = to_float(self.bank[rows]), self.known[rows], torch.ones(len(rows))
        else:
            rows = self.setting.rows.train
            image = to_float(self.setting.pictures.pictures(rows[share.rows(len(rows))]))
            code, known = self._sampled(share), own.float()
        device = self.setting.group.device
        image, code = image.to(device), code.to(device)
        image = self._with_own(image, code, own.to(device))
        worn = wear(image.cpu(), streams=share.streams(), amount=self.wear_amount).to(device) if self.wear_amount else image
        return Batch(image_BCHW=image, worn_BCHW=worn, code_BD=code, known_B=known.to(device), step=share.step)

    @torch.no_grad()
    def _sampled(self, share: Share) -> Tensor:
        """Return codes of the generator's mapping network."""
        z = share.own(torch.randn(share.batch, self.frozen.generator.style_dim, generator=share.stream(1)))
        return self.frozen.generator.mapping(z.to(self.setting.group.device))

    @torch.no_grad()
    def _with_own(self, image_BCHW: Tensor, code_BD: Tensor, own_B: Tensor) -> Tensor:
        """Replace the pictures at `own` by the generator's of the same codes."""
        generator = self.frozen.generator
        image_BCHW = image_BCHW.clone()
        if own_B.any():
            image_BCHW[own_B] = generator.synthesis(generator.repeat(code_BD[own_B])).clamp(-1, 1)
        return image_BCHW

    def measure(self, split: Split) -> dict[str, float]:
        """Return how well unseen pictures are inverted: held-out renders, or the shards' own pictures where there is no truth."""
        if self.setting.pictures is not None:
            bank = self.setting.pictures.pictures(self.setting.rows.unseen(split))
        else:
            count = self.inversion.measured if split == "held_out" else min(300, self.inversion.measured)
            bank = held_out_bank(self.frozen.generator, seed=SEEDS[split] + 6, pictures=count)
        return measure_pictures(self.inverter(), frozen=self.frozen, bank=bank, device=self.setting.group.device)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the identity similarity."""
        return numbers["identity"]

    def sheet(self) -> Tensor:
        """Return pictures beside their reconstructions."""
        if self.setting.pictures is not None:
            image = to_float(self.setting.pictures.pictures(self.setting.rows.validation[:8]))
        else:
            image = to_float(aligned_bank(sample_parameters(8, seeded(VALIDATION)), size=self.frozen.generator.size, seed=VALIDATION))
        image = image.to(self.setting.group.device)
        return torch.stack([image, self.frozen.generator(self.inverter().invert(image)).clamp(-1, 1)], 1)


def held_out_bank(generator: Generator, *, seed: int, pictures: int) -> Tensor:
    """Return aligned renders (N, 3, size, size) of people that no training draws, as bytes."""
    p = parameters_from_latent(torch.randn(pictures, generator.style_dim, generator=seeded(seed)))
    return aligned_bank(p, size=generator.size, seed=seed)


@torch.no_grad()
def measure_pictures(inverter: Inverter, *, frozen: Frozen, bank: Tensor, device: torch.device) -> dict[str, float]:
    """Return same-person rate, identity similarity, PSNR and how many attribute decisions survive, on stored pictures (N, 3, H, W)."""
    totals: list[Tensor] = []
    for part in bank.split(100):
        picture = to_float(part).to(device)
        made = frozen.generator(inverter.invert(picture)).clamp(-1, 1)
        same = (frozen.identity(made) * frozen.identity(picture)).sum(1)
        psnr = 10 * torch.log10(4 / (made - picture).square().mean((1, 2, 3)))
        figures = [(same > frozen.threshold).float(), same, psnr]
        if frozen.attributes is not None:
            said = [frozen.attributes.probabilities(image) > 0.5 for image in (made, picture)]
            figures.append((said[0] == said[1]).float().mean(1))
        totals.append(torch.stack(figures, 1))
    names = ("same_person", "identity", "psnr_db", "attributes_kept")
    return dict(zip(names, torch.cat(totals).mean(0).tolist(), strict=False))
