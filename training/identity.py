"""Train the identity net with the ArcFace loss on people whose attributes, pose and light change from picture to picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.perception import IdentityNet
from training.data import HELD_OUT, aligned_bank, people, seeded, to_float, wear
from training.loop import Log, batches, cosine, half_precision, set_rate


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


def train(config: IdentityConfig, folder: Path) -> tuple[IdentityNet, dict[str, float]]:
    """Train and measure on held-out people; returns the net and its numbers."""
    torch.manual_seed(config.seed)
    net = IdentityNet(size=config.size, widths=config.widths, embed_dim=config.embed_dim)
    loss_fn = ArcFace(people=config.people, embed_dim=config.embed_dim, scale=config.scale)
    p, person = people(config.people, pictures=config.pictures, seed=config.seed)
    bank = aligned_bank(p, size=config.size, seed=config.seed, jitter=0.012)
    log = Log(folder / "identity.jsonl", name="identity", steps=config.steps)
    optimizer = torch.optim.AdamW([*net.parameters(), *loss_fn.parameters()], lr=config.rate, weight_decay=0.02)
    generator = seeded(config.seed + 2)
    for step, rows in zip(range(config.steps), batches(len(bank), batch=config.batch, generator=generator), strict=False):
        set_rate(optimizer, config.rate * cosine(step, steps=config.steps))
        with half_precision():
            embedding = net(wear(to_float(bank[rows]), generator=generator))
        loss = loss_fn(embedding.float(), person[rows], margin=config.margin * min(1.0, 2 * step / config.steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step + 1 == config.steps:
            log(step, loss=loss.item())
    numbers = measure(net.eval(), seed=HELD_OUT + 2, n=config.measured)
    log(config.steps, **numbers)
    return net, numbers | {"training_s": round(log.seconds, 1)}


@torch.no_grad()
def measure(net: IdentityNet, *, seed: int, n: int = 1000) -> dict[str, float]:
    """Return the threshold that lets 1 % of impostor pairs through, and the share of true pairs above it (2 pictures of n people)."""
    p, _ = people(n, pictures=2, seed=seed)
    bank = aligned_bank(p, size=net.size, seed=seed)
    embedding = torch.cat([net(to_float(part)) for part in bank.split(500)])
    first, second = embedding[0::2], embedding[1::2]
    cosine_NN = first @ second.T
    impostors = cosine_NN[~torch.eye(n, dtype=torch.bool)]
    threshold = float(impostors.sort().values[int(0.99 * len(impostors))])
    return {
        "threshold_far1": threshold,
        "same_person": float((cosine_NN.diagonal() > threshold).float().mean()),
        "genuine_mean": float(cosine_NN.diagonal().mean()),
    }
