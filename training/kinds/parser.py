"""Train the face parser on rendered truth: cross entropy of which part every pixel shows, on worn and sometimes styled portraits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.parser import FaceParser
from portraits import PART_NAMES, jittered_frame, part_map, render, sample_parameters
from training.data import SEEDS, VALIDATION, device_of, seeded, to_bytes, to_float, wear
from training.kinds.attributes import styled
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share


@dataclass(frozen=True, kw_only=True)
class ParserConfig:
    """Settings of the face parser."""

    size: int = 64
    widths: Sequence[int] = (12, 24, 32, 48, 64)
    """Widths of the contracting path; five levels, as GANI's parsing loss compares."""
    pictures: int = 12_000
    steps: int = 1500
    batch: int = 24
    rate: float = 4e-3
    rare: float = 0.5
    """How much rare parts count more: the exponent of a part's frequency that its weight is divided by."""
    seed: int = 91
    measured: int = 1000


def bank(n: int, *, size: int, seed: int, jitter: float = 0.012) -> tuple[Tensor, Tensor]:
    """Render aligned portraits, some in a style; return bytes (n, 3, size, size) and the part of every pixel (n, size, size)."""
    generator = seeded(seed)
    people = styled(sample_parameters(n, generator), seed=seed + 1, share=0.1)
    pictures, parts = [], []
    for i in range(0, n, 2048):
        p = people.slice(slice(i, i + 2048))
        frame = jittered_frame(p, jitter=jitter, generator=generator)
        pictures.append(to_bytes(render(p, frame, size=size)))
        parts.append(part_map(p, frame, size=size))
    return torch.cat(pictures), torch.cat(parts)


def part_weights(parts_NHW: Tensor, *, rare: float) -> Tensor:
    """Return a weight (P,) per part that falls with its frequency, mean 1 over the pixels."""
    share = torch.bincount(parts_NHW.flatten().long(), minlength=len(PART_NAMES)).float().clamp_min(1) / parts_NHW.numel()
    weight = share**-rare
    return weight / (weight * share).sum()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures in [-1, 1] and the part that every pixel shows."""

    image_BCHW: Tensor
    parts_BHW: Tensor


class ParserObjective(Objective[Batch]):
    """Cross entropy over pixels, on worn renders."""

    average = 0.995

    def __init__(self, config: ParserConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        torch.manual_seed(config.seed)
        self.net: FaceParser = FaceParser(parts=PART_NAMES, size=config.size, widths=config.widths)

    def prepare(self) -> None:
        """Render the training portraits and their parts."""
        self.bank, self.parts = bank(self.config.pictures, size=self.config.size, seed=self.config.seed)
        self.weight_P = part_weights(self.parts[:2000], rare=self.config.rare).to(self.setting.group.device)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.net.parameters(), lr=self.config.rate, weight_decay=0.01)

    def rate(self, step: int) -> float:
        """Return a cosine schedule."""
        return self.config.rate * cosine(step, steps=self.steps)

    def draw(self, share: Share) -> Batch:
        """Draw rows of the pictures."""
        rows, device = share.rows(len(self.bank)), self.setting.group.device
        image = wear(to_float(self.bank[rows]), streams=share.streams())
        return Batch(image_BCHW=image.to(device), parts_BHW=self.parts[rows].to(device))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross entropy, rare parts counting more; a mean over all pixels, so that shares of a batch add up."""
        with self.mixed_precision():
            logits = self.net(batch.image_BCHW)
        truth = batch.parts_BHW.long()
        loss = F.cross_entropy(logits.float(), truth, weight=self.weight_P, reduction="none").mean()
        return loss, {"accuracy": (logits.argmax(1) == truth).float().mean()}

    def measure(self, split: Split) -> dict[str, float]:
        """Return pixel accuracy and intersection over union on unseen people."""
        return measure(self.net, seed=SEEDS[split] + 8, pictures=self.config.measured)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the mean intersection over union."""
        return numbers["mean_iou"]

    def network_config(self) -> Mapping[str, object]:
        """Return the network's shape."""
        return {"parts": list(PART_NAMES), "size": self.config.size, "widths": list(self.config.widths)}

    def sheet(self) -> Tensor:
        """Return pictures beside the parts found and the true ones."""
        picture, parts = bank(8, size=self.config.size, seed=VALIDATION)
        image = to_float(picture).to(self.setting.group.device)
        return torch.stack([image, painted(self.net(image).argmax(1)), painted(parts.to(image.device))], 1)


def painted(parts_BHW: Tensor) -> Tensor:
    """Return a part map as a picture (B, 3, H, W) in [-1, 1], one colour per part."""
    hue = torch.arange(len(PART_NAMES), device=parts_BHW.device) * 2.4  # the golden angle: neighbours differ
    colours = torch.stack([hue.sin(), (hue + 2.1).sin(), (hue + 4.2).sin()], 1)
    return colours[parts_BHW.long()].permute(0, 3, 1, 2)


@torch.no_grad()
def measure(net: FaceParser, *, seed: int, pictures: int = 1000) -> dict[str, float]:
    """Return the share of pixels whose part is right, and the intersection over union of every part and its mean, on aligned renders."""
    picture, truth = bank(pictures, size=net.size, seed=seed)
    count = len(PART_NAMES)
    confusion = torch.zeros(count * count)
    for image, parts in zip(picture.split(100), truth.split(100), strict=True):
        said = net(to_float(image).to(device_of(net))).argmax(1).cpu()
        confusion += torch.bincount((parts.long() * count + said).flatten(), minlength=count * count)
    table = confusion.view(count, count)
    both = table.diagonal()
    iou = both / (table.sum(0) + table.sum(1) - both).clamp_min(1)
    numbers = {"pixel_accuracy": float(both.sum() / table.sum()), "mean_iou": float(iou.mean())}
    return numbers | {f"iou_{name}": float(value) for name, value in zip(PART_NAMES, iou, strict=True)}


KIND = Kind(config=ParserConfig, objective=ParserObjective, network="parser", summary="face parser")
