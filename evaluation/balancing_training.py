"""The classifier of the balancing example: a small convolutional network that says whether somebody smiles, trained in three ways.

The ways differ in what is shown, and how often, in nothing else: the same network from the same start, and as many pictures.

Shapes: N pictures, B of a batch, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.balancing import NAMES, ORIGINAL, Advance, LabelledSet
from models.perception import trunk
from training.data import seeded, to_float
from training.share import mixed

SHRINK = 16  # side of a picture over side of the last map
MEASURED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a classifier is trained, whatever the way."""

    steps: int = 600
    batch: int = 64
    rate: float = 2e-3
    """Highest learning rate; it falls to nothing along a cosine."""
    decay: float = 1e-2
    """Weight decay of AdamW."""
    shift: int = 3
    """Pictures are moved by up to so many pixels, and mirrored half of the time."""
    widths: tuple[int, ...] = (12, 24, 48, 64)


@dataclass(frozen=True, kw_only=True)
class Way:
    """What a classifier is shown: the originals alone or all pictures, each as often or each group as often."""

    originals: bool
    balanced: bool

    def shown(self, augmented: LabelledSet) -> LabelledSet:
        """Return the part of an augmented set that is shown."""
        return augmented.of_kind(ORIGINAL) if self.originals else augmented

    def weights(self, data: LabelledSet) -> Tensor:
        """Return how often each picture is shown, relative to the others."""
        if not self.balanced:
            return torch.ones(len(data))
        return 1 / torch.bincount(data.group_N, minlength=len(NAMES))[data.group_N].float()


WAYS: Mapping[str, Way] = {
    "biased": Way(originals=True, balanced=False),
    "oversampled": Way(originals=True, balanced=True),
    "augmented": Way(originals=False, balanced=True),
}


def classifier(widths: tuple[int, ...], *, size: int, seed: int) -> nn.Module:
    """Return a new network from pictures (B, 3, S, S) in [-1, 1] to logits (B, 2): no smile, a smile."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = nn.Sequential(trunk(widths), nn.Flatten(), nn.Linear(widths[-1] * (size // SHRINK) ** 2, 2))
    return net.to(memory_format=torch.channels_last)


def trained(data: LabelledSet, way: Way, *, training: Training, seed: int, advance: Advance = lambda: None) -> nn.Module:
    """Train a classifier on `data`; the same arguments give the same network. `advance` is called after every step."""
    net = classifier(training.widths, size=data.image_NCHW.shape[-1], seed=seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=training.rate, weight_decay=training.decay)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.steps)
    stream, weight_N, smile_N = seeded(mixed(seed)), way.weights(data), data.smiles
    net.train()
    for _ in range(training.steps):
        rows = torch.multinomial(weight_N, training.batch, replacement=True, generator=stream)
        image_BCHW = moved(to_float(data.image_NCHW[rows]), shift=training.shift, stream=stream)
        loss = F.cross_entropy(net(image_BCHW.contiguous(memory_format=torch.channels_last)), smile_N[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        fall.step()
        advance()
    return net.eval()


def moved(image_BCHW: Tensor, *, shift: int, stream: torch.Generator) -> Tensor:
    """Mirror pictures half of the time and move each by up to `shift` whole pixels either way; edges are repeated."""
    count, size = len(image_BCHW), image_BCHW.shape[-1]
    theta_B23 = torch.zeros(count, 2, 3)
    theta_B23[:, 0, 0] = torch.randint(0, 2, (count,), generator=stream) * 2.0 - 1
    theta_B23[:, 1, 1] = 1
    theta_B23[:, :, 2] = torch.randint(-shift, shift + 1, (count, 2), generator=stream) * (2 / size)
    grid = F.affine_grid(theta_B23, list(image_BCHW.shape), align_corners=False)
    return F.grid_sample(image_BCHW, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def accuracies(net: nn.Module, test: LabelledSet) -> dict[str, float]:
    """Return the share of each group that is classified rightly."""
    parts = [net(to_float(part)).argmax(1) for part in test.image_NCHW.split(MEASURED_AT_ONCE)]
    right_N = torch.cat(parts) == test.smiles
    return {name: float(right_N[test.group_N == number].float().mean()) for number, name in enumerate(NAMES)}
