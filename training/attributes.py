"""Train the attribute classifier on rendered truth: attributes of the portrait and its style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.perception import AttributeNet
from portraits import ATTRIBUTE_GROUPS, ATTRIBUTE_NAMES, STYLE_NAMES, Parameters, sample_parameters
from training.data import HELD_OUT, aligned_bank, seeded, to_float, wear
from training.loop import Log, batches, cosine, half_precision, set_rate

GROUPS = {**ATTRIBUTE_GROUPS, "style": tuple(f"style_{name}" for name in STYLE_NAMES)}
_GROUPED = {name for members in ATTRIBUTE_GROUPS.values() for name in members}
BINARY = tuple(name for name in ATTRIBUTE_NAMES if name not in _GROUPED)


@dataclass(frozen=True, kw_only=True)
class AttributesConfig:
    """Settings of the attribute classifier."""

    size: int = 64
    widths: Sequence[int] = (32, 64, 128, 192)
    pictures: int = 40_000
    steps: int = 2200
    batch: int = 128
    rate: float = 2e-3
    seed: int = 11
    measured: int = 4000


def styled(p: Parameters, *, seed: int, share: float) -> Parameters:
    """Give a random `share` of the portraits a random style that is not "photo"."""
    generator = seeded(seed)
    style = torch.randint(1, len(STYLE_NAMES), (len(p),), generator=generator)
    keep = torch.rand(len(p), generator=generator) >= share
    return Parameters(values=p.values, style=torch.where(keep, 0, style))


def truth(p: Parameters) -> Tensor:
    """Return the truth in the order of the classifier's names, 0 or 1."""
    style = torch.nn.functional.one_hot(p.style, len(STYLE_NAMES)).float()
    columns = [p.columns(ATTRIBUTE_GROUPS[name]) > 0.5 if name != "style" else style for name in GROUPS]
    grouped = [column.float() for column in columns]
    neutral = grouped[0]
    neutral[:, 0] = (neutral[:, 1:].sum(1) < 0.5).float()
    return torch.cat([*grouped, (p.columns(BINARY) > 0.5).float()], 1)


def train(config: AttributesConfig, folder: Path) -> tuple[AttributeNet, dict[str, float]]:
    """Train and measure on held-out people; returns the net and its numbers."""
    torch.manual_seed(config.seed)
    net = AttributeNet(groups=GROUPS, binary=BINARY, size=config.size, widths=config.widths)
    p = styled(sample_parameters(config.pictures, seeded(config.seed)), seed=config.seed + 1, share=0.25)
    bank, labels = aligned_bank(p, size=config.size, seed=config.seed, jitter=0.015), truth(p)
    log = Log(folder / "attributes.jsonl", name="attributes", steps=config.steps)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.rate, weight_decay=0.05)
    generator = seeded(config.seed + 2)
    for step, rows in zip(range(config.steps), batches(len(bank), batch=config.batch, generator=generator), strict=False):
        set_rate(optimizer, config.rate * cosine(step, steps=config.steps))
        with half_precision():
            logits = net(wear(to_float(bank[rows]), generator=generator))
        loss = net.loss(logits.float(), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step + 1 == config.steps:
            log(step, loss=loss.item())
    numbers = measure(net.eval(), seed=HELD_OUT + 1, pictures=config.measured)
    log(config.steps, **numbers)
    return net, numbers | {"training_s": round(log.seconds, 1)}


@torch.no_grad()
def measure(net: AttributeNet, *, seed: int, pictures: int = 4000) -> dict[str, float]:
    """Return the share of right answers on held-out aligned photos: mean over attributes, the worst, and the style's."""
    p = sample_parameters(pictures, seeded(seed))
    said = predicted(net, aligned_bank(p, size=net.size, seed=seed))
    right = (said == (truth(p) > 0.5)).float().mean(0)
    photo = [i for i, name in enumerate(net.names) if not name.startswith("style_")]
    q = styled(p, seed=seed + 1, share=1.0)
    style = [i for i, name in enumerate(net.names) if name.startswith("style_")]
    style_said = predicted(net, aligned_bank(q.slice(slice(0, pictures // 4)), size=net.size, seed=seed))[:, style]
    style_right = (style_said == (truth(q)[: pictures // 4, style] > 0.5)).all(1).float().mean()
    worst = int(right[photo].argmin())
    return {
        "accuracy": float(right[photo].mean()),
        "accuracy_worst": float(right[photo].min()),
        "worst_index": worst,
        "style_accuracy": float(style_right),
    }


@torch.no_grad()
def predicted(net: AttributeNet, bank: Tensor) -> Tensor:
    """Return decisions (N, A) for stored pictures."""
    return torch.cat([net.probabilities(to_float(part)) > 0.5 for part in bank.split(500)])
