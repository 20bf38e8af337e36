"""Train the attribute classifier on rendered truth: attributes of the portrait and its style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.perception import AttributeNet
from portraits import ATTRIBUTE_GROUPS, ATTRIBUTE_NAMES, STYLE_NAMES, Parameters, sample_parameters
from training.data import SEEDS, aligned_bank, device_of, seeded, to_float, wear
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share

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


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures in [-1, 1] and the truth about them."""

    image_BCHW: Tensor
    truth_BA: Tensor


class AttributesObjective(Objective[Batch]):
    """Cross entropy within groups and binary cross entropy elsewhere, on worn renders."""

    def __init__(self, config: AttributesConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        torch.manual_seed(config.seed)
        self.net: AttributeNet = AttributeNet(groups=GROUPS, binary=BINARY, size=config.size, widths=config.widths)

    def prepare(self) -> None:
        """Render the training pictures."""
        config = self.config
        p = styled(sample_parameters(config.pictures, seeded(config.seed)), seed=config.seed + 1, share=0.25)
        self.bank, self.labels = aligned_bank(p, size=config.size, seed=config.seed, jitter=0.015), truth(p)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.net.parameters(), lr=self.config.rate, weight_decay=0.05)

    def rate(self, step: int) -> float:
        """Return a cosine schedule."""
        return self.config.rate * cosine(step, steps=self.steps)

    def draw(self, share: Share) -> Batch:
        """Draw rows of the rendered pictures."""
        rows = share.rows(len(self.bank))
        device = self.setting.group.device
        return Batch(image_BCHW=wear(to_float(self.bank[rows]), streams=share.streams()).to(device), truth_BA=self.labels[rows].to(device))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the classification loss."""
        with self.mixed_precision():
            logits = self.net(batch.image_BCHW)
        return self.net.loss(logits.float(), batch.truth_BA), {}

    def measure(self, split: Split) -> dict[str, float]:
        """Return the share of right answers."""
        return measure(self.net, seed=SEEDS[split] + 1, pictures=self.config.measured)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the mean of mean and worst accuracy."""
        return (numbers["accuracy"] + numbers["accuracy_worst"]) / 2

    def network_config(self) -> Mapping[str, object]:
        """Return the classifier's shape."""
        config = self.config
        groups = {name: list(members) for name, members in GROUPS.items()}
        return {"groups": groups, "binary": list(BINARY), "size": config.size, "widths": list(config.widths)}


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
    return torch.cat([(net.probabilities(to_float(part).to(device_of(net))) > 0.5).cpu() for part in bank.split(500)])


KIND = Kind(config=AttributesConfig, objective=AttributesObjective, network="attributes", summary="classifier of attributes and styles")
