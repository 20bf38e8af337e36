"""Train the identity net with the ArcFace loss on people whose attributes, pose and light change from picture to picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.perception import IdentityNet
from training.data import SEEDS, aligned_bank, device_of, people, to_float, wear
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share


@dataclass(frozen=True, kw_only=True)
class IdentityConfig:
    """Settings of the identity net; margin and scale as in ArcFace."""

    size: int = 64
    widths: Sequence[int] = (32, 64, 128, 192)
    embed_dim: int = 128
    people: int = 3000
    pictures: int = 14
    steps: int = 2500
    batch: int = 128
    rate: float = 2e-3
    scale: float = 24.0
    margin: float = 0.25
    seed: int = 21
    measured: int = 1000


class ArcFace(nn.Module):
    """Additive angular margin loss over the training people (ArcFace eq. 3)."""

    def __init__(self, *, people: int, embed_dim: int, scale: float) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(people, embed_dim) * 0.1)
        self.scale = scale

    def forward(self, embedding_BE: Tensor, person_B: Tensor, *, margin: float) -> Tensor:
        """Return the mean loss; `margin` in radians is added to the angle to the right centre."""
        cosine_BP = embedding_BE @ F.normalize(self.centres, dim=1).T
        right = cosine_BP.gather(1, person_B[:, None]).clamp(-1 + 1e-4, 1 - 1e-4)
        shifted = right * math.cos(margin) - (1 - right * right).sqrt() * math.sin(margin)
        return F.cross_entropy(cosine_BP.scatter(1, person_B[:, None], shifted) * self.scale, person_B)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures in [-1, 1], who they show, and the margin of this step in radians."""

    image_BCHW: Tensor
    person_B: Tensor
    margin: float


class IdentityObjective(Objective[Batch]):
    """ArcFace over the training people; the margin grows during the first half."""

    def __init__(self, config: IdentityConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        torch.manual_seed(config.seed)
        self.net: IdentityNet = IdentityNet(size=config.size, widths=config.widths, embed_dim=config.embed_dim)
        self.arcface = ArcFace(people=config.people, embed_dim=config.embed_dim, scale=config.scale)

    def prepare(self) -> None:
        """Render the training people."""
        config = self.config
        p, self.person = people(config.people, pictures=config.pictures, seed=config.seed)
        self.bank = aligned_bank(p, size=config.size, seed=config.seed, jitter=0.012)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW of the network and the people's centres."""
        return torch.optim.AdamW(self.parameters(), lr=self.config.rate, weight_decay=0.02)

    def rate(self, step: int) -> float:
        """Return a cosine schedule."""
        return self.config.rate * cosine(step, steps=self.steps)

    def draw(self, share: Share) -> Batch:
        """Draw rows of the rendered pictures."""
        rows = share.rows(len(self.bank))
        device, image = self.setting.group.device, wear(to_float(self.bank[rows]), streams=share.streams())
        margin = self.config.margin * min(1.0, 2 * share.step / self.steps)
        return Batch(image_BCHW=image.to(device), person_B=self.person[rows].to(device), margin=margin)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the ArcFace loss."""
        with self.mixed_precision():
            embedding = self.net(batch.image_BCHW)
        return self.arcface(embedding.float(), batch.person_B, margin=batch.margin), {}

    def measure(self, split: Split) -> dict[str, float]:
        """Return the threshold at 1 % false accepts and the true accepts there."""
        return measure(self.net, seed=SEEDS[split] + 2, n=self.config.measured)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the rate of true accepts."""
        return numbers["same_person"]

    def network_config(self) -> Mapping[str, object]:
        """Return the network's shape."""
        return {"size": self.config.size, "widths": list(self.config.widths), "embed_dim": self.config.embed_dim}


@torch.no_grad()
def measure(net: IdentityNet, *, seed: int, n: int = 1000) -> dict[str, float]:
    """Return the threshold that lets 1 % of impostor pairs through, and the share of true pairs above it (2 pictures of n people)."""
    p, _ = people(n, pictures=2, seed=seed)
    bank = aligned_bank(p, size=net.size, seed=seed)
    embedding = torch.cat([net(to_float(part).to(device_of(net))).cpu() for part in bank.split(500)])
    first, second = embedding[0::2], embedding[1::2]
    cosine_NN = first @ second.T
    impostors = cosine_NN[~torch.eye(n, dtype=torch.bool)]
    threshold = float(impostors.sort().values[int(0.99 * len(impostors))])
    return {
        "threshold_far1": threshold,
        "same_person": float((cosine_NN.diagonal() > threshold).float().mean()),
        "genuine_mean": float(cosine_NN.diagonal().mean()),
    }


KIND = Kind(config=IdentityConfig, objective=IdentityObjective, network="identity", summary="identity embedding (ArcFace)")
