"""Train DeltaEdit's mapper: how the styles of two generated pictures differ, from how their CLIP embeddings do. No text is seen.

Differs from the paper: generated pictures alone, half of them with latent slots of two people, as inversions in W+ have; and noise on
the directions. The direction between two texts lies beside that between pictures (cosine 0.8 on the built-in portraits), where pictures
never lead, so what is left of it must count for little (the same remedy as LAFITE's).

Shape legend: N pictures of a bank, B batch, L latent slots, D style width, S style channels, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.clip import ClipModel
from models.deltaedit import DeltaMapper
from models.state import GeneratorState
from models.style_space import joined, restyled, style_spread, styles
from models.stylegan2 import Generator
from training.data import SEEDS, VALIDATION, seeded
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share

PART = 250


@dataclass(frozen=True, kw_only=True)
class DeltaEditConfig:
    """Settings of DeltaEdit's training."""

    width: int = 256
    depth: int = 4
    pictures: int = 12_000
    """Random pictures that pairs are drawn from."""
    steps: int = 3000
    batch: int = 64
    rate: float = 5e-4
    l2: float = 1.0
    cosine: float = 1.0
    noise: float = 1.7
    """Mean length of the noise that is added to directions of length 1, which are normalised again."""
    seed: int = 97
    measured: int = 500

    def __post_init__(self) -> None:
        if self.pictures < 2 or self.measured < 2 or min(self.l2, self.cosine, self.noise) < 0:
            raise ValueError(f"pictures {self.pictures}, measured {self.measured}, l2 {self.l2}, cosine {self.cosine}, noise {self.noise}: "
                             "expected 2 or more twice, and 0 or more")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Pictures as what is learnt of them: styles (N, S) and unit CLIP embeddings (N, E)."""

    styles_NS: Tensor
    embedded_NE: Tensor

    def rows(self, rows: Tensor) -> Bank:
        """Return some of them."""
        return Bank(styles_NS=self.styles_NS[rows], embedded_NE=self.embedded_NE[rows])


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures, what they are to become, and unit directions (B, E) from one to the other."""

    source: Bank
    target: Bank
    delta_BE: Tensor


class DeltaEditObjective(Objective[Batch]):
    """Squared error and cosine of the predicted change, in standard deviations of the styles."""

    bank: Bank

    def __init__(self, config: DeltaEditConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        pack = setting.needed("DeltaEdit's training")
        self.frozen: tuple[Generator, ClipModel] = (pack.generator(), pack.clip())
        generator, clip = self.frozen
        shape = {"size": generator.size, "channels": generator.channels, "text_dim": clip.embed_dim}
        self.shape = {**shape, "width": config.width, "depth": config.depth}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net: DeltaMapper = DeltaMapper.from_config(self.shape)
        mean_S, std_S = style_spread(generator)
        self.net.mean_S.copy_(mean_S)
        self.net.std_S.copy_(std_S.clamp_min(1e-6))

    def prepare(self) -> None:
        """Paint and embed the bank."""
        self.bank = self._bank(random_latents(self.frozen[0], self.config.pictures, seed=self.seed))

    @torch.no_grad()
    def _bank(self, latents_NLD: Tensor) -> Bank:
        generator, clip = self.frozen
        found, embedded = [], []
        for part in latents_NLD.split(PART):
            found.append(joined(styles(generator, part)))
            embedded.append(F.normalize(clip.embed_images(generator.synthesis(part).clamp(-1, 1)), dim=1))
        return Bank(styles_NS=torch.cat(found), embedded_NE=torch.cat(embedded))

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam, as in the paper."""
        return torch.optim.Adam(self.net.parameters(), lr=self.config.rate)

    def rate(self, step: int) -> float:
        """Return a cosine schedule."""
        return self.config.rate * cosine(step, steps=self.steps)

    def draw(self, share: Share) -> Batch:
        """Draw pairs out of the bank, and noise on their directions."""
        device = self.bank.styles_NS.device
        rows = share.own(torch.randint(len(self.bank.styles_NS), (share.batch, 2), generator=share.stream()))
        noise_BE = share.own(torch.randn(share.batch, self.net.text_dim, generator=share.stream(1))).to(device)
        source, target = (self.bank.rows(column.to(device)) for column in rows.unbind(1))
        length = self.config.noise / self.net.text_dim**0.5
        return Batch(source=source, target=target, delta_BE=F.normalize(_delta(source, target) + length * noise_BE, dim=1))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of both losses (DeltaEdit eq. 5)."""
        found, wanted = self._predicted(batch)
        l2, along = F.mse_loss(found, wanted), F.cosine_similarity(found, wanted, dim=1).mean()
        return self.config.l2 * l2 + self.config.cosine * (1 - along), {"l2": l2, "cosine": along}

    def _predicted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the predicted and the true change (B, S) in standard deviations."""
        own, wanted = self.net.standard(batch.source.styles_NS), self.net.standard(batch.target.styles_NS)
        with self.mixed_precision():
            found = self.net(own, batch.source.embedded_NE, batch.delta_BE)
        return found.float(), wanted - own

    @torch.no_grad()
    def measure(self, split: Split) -> dict[str, float]:
        """Return both losses' figures on pairs of pictures that training does not see, without noise."""
        found, wanted = self._predicted(self._pairs(self.config.measured, seed=SEEDS[split] + 11))
        return {"l2": float(F.mse_loss(found, wanted)), "cosine": float(F.cosine_similarity(found, wanted, dim=1).mean())}

    def _pairs(self, n: int, *, seed: int) -> Batch:
        """Return n pairs of random pictures."""
        bank = self._bank(random_latents(self.frozen[0], n, seed=seed))
        target = bank.rows(torch.arange(n).roll(1).to(bank.styles_NS.device))
        return Batch(source=bank, target=target, delta_BE=_delta(bank, target))

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the cosine."""
        return numbers["cosine"]

    def network_config(self) -> Mapping[str, object]:
        """Return the constructor arguments."""
        return self.shape

    @torch.no_grad()
    def sheet(self) -> Tensor:
        """Return eight pictures, their targets, and the pictures moved by the predicted change."""
        generator, net = self.frozen[0], self.net
        latents = random_latents(generator, 8, seed=VALIDATION)
        found, _ = self._predicted(self._pairs(8, seed=VALIDATION))
        edited = restyled(generator, GeneratorState(latents_BLD=latents), found * net.std_S)
        made = [generator.synthesis(latents), generator.synthesis(latents.roll(1, 0)), generator(edited)]
        return torch.stack([picture.clamp(-1, 1) for picture in made], 1)


def _delta(source: Bank, target: Bank) -> Tensor:
    return F.normalize(target.embedded_NE - source.embedded_NE, dim=1)


@torch.no_grad()
def random_latents(generator: Generator, n: int, *, seed: int) -> Tensor:
    """Return latents (n, L, D) of random people; every second has slots of two."""
    stream = seeded(seed)
    like = generator.input.input
    one, two = (generator.repeat(generator.mapping(z.to(like))) for z in torch.randn(2, n, generator.style_dim, generator=stream))
    first = torch.rand(n, generator.n_latents, 1, generator=stream) < torch.rand(n, 1, 1, generator=stream)
    first[::2] = True
    return torch.where(first.to(one.device), one, two)


KIND = Kind(
    config=DeltaEditConfig, objective=DeltaEditObjective, network="deltaedit", summary="text-free editor of StyleSpace (DeltaEdit)",
    needs=("generator", "clip"), bound_to=("generator", "clip"),
)  # fmt: skip
