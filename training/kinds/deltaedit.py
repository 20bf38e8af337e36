"""Train DeltaEdit's mapper: how the styles of two generated pictures differ, from how their CLIP embeddings do. No text is seen.

Pairs are two random people, or one and a twin that shares part of its noise or of its latent slots: then little differs, and the
network learns what belongs to what. Differs from the paper, whose pairs are two of a data set's inverted pictures (and two generated ones).

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
from models.style_space import as_offsets, joined, parted, style_layers, style_spread, styles
from models.stylegan2 import Generator
from training.data import SEEDS, VALIDATION, seeded
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share

STRANGERS = 1 / 3
"""Share of the pairs that are two random people."""
PART = 250


@dataclass(frozen=True, kw_only=True)
class DeltaEditConfig:
    """Settings of DeltaEdit's training."""

    width: int = 512
    depth: int = 4
    pictures: int = 8000
    """Random people of the bank; each has a twin."""
    steps: int = 3000
    batch: int = 64
    rate: float = 5e-4
    l2: float = 1.0
    cosine: float = 1.0
    seed: int = 97
    measured: int = 500

    def __post_init__(self) -> None:
        if self.pictures < 2 or self.measured < 2 or self.l2 < 0 or self.cosine < 0:
            raise ValueError(f"pictures {self.pictures}, measured {self.measured}, l2 {self.l2}, cosine {self.cosine}: "
                             "expected 2 or more twice and weights of 0 or more")  # fmt: skip


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
    """Pictures and what they are to become."""

    source: Bank
    target: Bank


class DeltaEditObjective(Objective[Batch]):
    """Squared error and cosine of the predicted change, in standard deviations of the styles."""

    bank: tuple[Bank, Bank]

    def __init__(self, config: DeltaEditConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        pack = setting.needed("DeltaEdit's training")
        self.frozen: tuple[Generator, ClipModel] = (pack.generator(), pack.clip())
        generator, clip = self.frozen
        text_dim = clip.embed_texts(["a face"]).shape[1]
        shape = {"size": generator.size, "channels": generator.channels, "text_dim": text_dim}
        self.shape = {**shape, "width": config.width, "depth": config.depth}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net: DeltaMapper = DeltaMapper.from_config(self.shape)
        mean_S, std_S = style_spread(generator)
        self.net.mean_S.copy_(mean_S)
        self.net.std_S.copy_(std_S.clamp_min(1e-6))

    def prepare(self) -> None:
        """Paint and embed the bank."""
        own, twin = twins(self.frozen[0], self.config.pictures, seed=self.seed)
        self.bank = self._bank(own), self._bank(twin)

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
        """Draw pairs out of the bank: strangers, or twins, each in either order."""
        own, twin = self.bank
        stream, n = share.stream(), len(own.styles_NS)
        row, other = share.own(torch.randint(n, (share.batch, 2), generator=stream)).unbind(1)
        strange, turned = (share.own(torch.rand(share.batch, 2, generator=stream)) < torch.tensor([STRANGERS, 0.5])).unbind(1)
        first = own.rows(row)
        second, stranger = twin.rows(row), own.rows(other)
        device = first.styles_NS.device
        strange, turned = strange.to(device)[:, None], turned.to(device)[:, None]
        second = _either(strange, stranger, second)
        return Batch(source=_either(turned, second, first), target=_either(turned, first, second))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of both losses (DeltaEdit eq. 5)."""
        found, wanted = self._predicted(batch)
        l2, along = F.mse_loss(found, wanted), F.cosine_similarity(found, wanted, dim=1).mean()
        return self.config.l2 * l2 + self.config.cosine * (1 - along), {"l2": l2, "cosine": along}

    def _predicted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the predicted and the true change (B, S) in standard deviations."""
        own, wanted = self.net.standard(batch.source.styles_NS), self.net.standard(batch.target.styles_NS)
        delta = F.normalize(batch.target.embedded_NE - batch.source.embedded_NE, dim=1)
        with self.mixed_precision():
            found = self.net(own, batch.source.embedded_NE, delta)
        return found.float(), wanted - own

    @torch.no_grad()
    def measure(self, split: Split) -> dict[str, float]:
        """Return both losses' figures on twins, and the cosine on strangers, all of them people that training does not see."""
        own, twin = (self._bank(latents) for latents in twins(self.frozen[0], self.config.measured, seed=SEEDS[split] + 11))
        found, wanted = self._predicted(Batch(source=own, target=twin))
        other = self._predicted(Batch(source=own, target=own.rows(torch.arange(len(own.styles_NS)).roll(1))))
        return {
            "l2": float(F.mse_loss(found, wanted)),
            "cosine": float(F.cosine_similarity(found, wanted, dim=1).mean()),
            "cosine_strangers": float(F.cosine_similarity(*other, dim=1).mean()),
        }

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the mean of both cosines."""
        return (numbers["cosine"] + numbers["cosine_strangers"]) / 2

    def network_config(self) -> Mapping[str, object]:
        """Return the constructor arguments."""
        return self.shape

    @torch.no_grad()
    def sheet(self) -> Tensor:
        """Return eight pictures, their targets, and the pictures moved by the predicted change."""
        generator, net = self.frozen[0], self.net
        latents = [pair[:8] for pair in twins(generator, 8, seed=VALIDATION)]
        found, _ = self._predicted(Batch(source=self._bank(latents[0]), target=self._bank(latents[1])))
        layers = style_layers(generator.size, generator.channels)
        offsets = as_offsets(generator, styles(generator, latents[0]), parted(found * net.std_S, layers))
        made = [*(generator.synthesis(each) for each in latents), generator.synthesis(latents[0], offsets)]
        return torch.stack([picture.clamp(-1, 1) for picture in made], 1)


def _either(chosen_B1: Tensor, first: Bank, second: Bank) -> Bank:
    """Return rows of the first where chosen, of the second elsewhere."""
    return Bank(
        styles_NS=torch.where(chosen_B1, first.styles_NS, second.styles_NS),
        embedded_NE=torch.where(chosen_B1, first.embedded_NE, second.embedded_NE),
    )


@torch.no_grad()
def twins(generator: Generator, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return latents (n, L, D) of random people and of their twins: every second shares noise with its person, the others slots of W+."""
    stream = seeded(seed)
    first, second = torch.randn(2, n, generator.style_dim, generator=stream)
    share, other = torch.rand(2, n, 1, generator=stream)
    noise_kept = torch.rand(n, generator.style_dim, generator=stream) < share
    slots_kept = torch.rand(n, generator.n_latents, generator=stream) < other
    like = generator.input.input
    crossed = (torch.arange(n) % 2 == 0)[:, None]
    w = [generator.mapping(z.to(like)) for z in (first, torch.where(noise_kept & crossed, first, second))]
    own, twin = (generator.repeat(each) for each in w)
    return own, torch.where((slots_kept & ~crossed)[..., None].to(own.device), own, twin)


KIND = Kind(
    config=DeltaEditConfig, objective=DeltaEditObjective, network="deltaedit", summary="text-free editor of StyleSpace (DeltaEdit)",
    needs=("generator", "clip"), bound_to=("generator", "clip"),
)  # fmt: skip
