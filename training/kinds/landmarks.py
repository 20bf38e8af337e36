"""Train the landmark net on unaligned renders, whole views and close-ups alike, with pictures without a face beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.perception import LandmarkNet, grid
from portraits import LANDMARK_NAMES, Parameters, render, sample_parameters
from portraits.raw import picture_landmarks, random_frames
from training.data import SEEDS, seeded, to_bytes, to_float, wear
from training.kinds.attributes import styled
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share


@dataclass(frozen=True, kw_only=True)
class LandmarksConfig:
    """Settings of the landmark net."""

    size: int = 96
    widths: Sequence[int] = (24, 40, 64, 96)
    pictures: int = 20_000
    empty: int = 3_000
    steps: int = 3400
    batch: int = 48
    rate: float = 2e-3
    seed: int = 51
    measured: int = 1000


EYES = 1e-3
"""Smallest eye distance that errors are divided by: pictures without a face have none."""


def empty_pictures(n: int, *, size: int, seed: int) -> Tensor:
    """Make pictures without a face: noise at all scales, gradients, stripes, discs and background far from a portrait."""
    generator = seeded(seed)
    coarse = [torch.rand(n, 3, side, side, generator=generator) for side in (1, 3, 8, size)]
    weights = torch.rand(n, 4, generator=generator) ** 3
    weights = weights / weights.sum(1, keepdim=True)
    image = torch.zeros(n, 3, size, size)
    for i, noise in enumerate(coarse):
        image += weights[:, i, None, None, None] * F.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)
    axis = torch.linspace(-1, 1, size)
    turn = torch.rand(n, 2, generator=generator) * 2 - 1
    wave = torch.sin(
        (turn[:, 0, None, None] * axis + turn[:, 1, None, None] * axis[:, None]) * 14 * torch.rand(n, 1, 1, generator=generator)
    )
    centre = torch.rand(n, 2, generator=generator) * 2 - 1
    reach = 0.2 + 0.6 * torch.rand(n, 1, 1, generator=generator)
    disc = ((axis - centre[:, 0, None, None]) ** 2 + (axis[:, None] - centre[:, 1, None, None]) ** 2 < reach**2).float()
    colour = torch.rand(n, 3, 1, 1, generator=generator)
    image = torch.lerp(image, colour.expand_as(image), (disc * (torch.rand(n, 1, 1, generator=generator) < 0.5)).unsqueeze(1))
    image = image + 0.25 * (wave * (torch.rand(n, 1, 1, generator=generator) < 0.4)).unsqueeze(1)
    return to_bytes(image.clamp(0, 1) * 2 - 1)


def bank(n: int, *, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Render `n` unaligned portraits, half whole views, half close-ups; return bytes (n, 3, size, size) and landmarks (n, K, 2)."""
    generator = seeded(seed)
    p = styled(sample_parameters(n, generator), seed=seed, share=0.15)
    half = n // 2
    wide = random_frames(p.slice(slice(0, half)), generator=generator, eye_share=(0.11, 0.27), rotation_deg=38, shift=0.35)
    close = random_frames(p.slice(slice(half, n)), generator=generator, eye_share=(0.22, 0.40), rotation_deg=38, shift=0.12)
    frame = torch.cat([wide, close])
    parts = [to_bytes(render(p.slice(slice(i, i + 512)), frame[i : i + 512], size=size)) for i in range(0, n, 512)]
    return torch.cat(parts), picture_landmarks(p, frame)


def error(said_BK2: Tensor, truth_BK2: Tensor) -> Tensor:
    """Return the mean landmark error of each picture as a share of its eye distance, (B,)."""
    eyes = (truth_BK2[:, 0] - truth_BK2[:, 1]).norm(dim=1)
    return (said_BK2 - truth_BK2).norm(dim=2).mean(1) / eyes


def coarse(image_BCHW: Tensor, *, share: Share) -> Tensor:
    """Take the detail out of every other picture of the global batch, as enlarging a small face does."""
    size = image_BCHW.shape[-1]
    small = int(torch.randint(size // 2, size, (1,), generator=share.stream()))
    blurred = F.interpolate(image_BCHW, size=(small, small), mode="bilinear", align_corners=False, antialias=True)
    blurred = F.interpolate(blurred, size=(size, size), mode="bilinear", align_corners=False)
    return torch.where((share.places % 2 == 0)[:, None, None, None], blurred, image_BCHW)


def distances(maps_BKHW: Tensor, truth_BK2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the error of the maps' centres and the mean distance of their mass, (B,) each, as shares of the eye distance."""
    rows, columns = grid(maps_BKHW)
    centre = torch.stack([(maps_BKHW.sum(2) * columns).sum(2), (maps_BKHW.sum(3) * rows).sum(2)], 2)
    dx, dy = columns - truth_BK2[:, :, :1], rows - truth_BK2[:, :, 1:]
    away = (dy[:, :, :, None].square() + dx[:, :, None, :].square() + 1e-8).sqrt()
    eyes = (truth_BK2[:, 0] - truth_BK2[:, 1]).norm(dim=1).clamp_min(EYES)
    return (centre - truth_BK2).norm(dim=2).mean(1) / eyes, (maps_BKHW * away).sum((2, 3)).mean(1) / eyes


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures in [-1, 1], their landmarks (-1 to 1; zeros without a face), and which show a face."""

    image_BCHW: Tensor
    truth_BK2: Tensor
    is_face_B: Tensor


class LandmarksObjective(Objective[Batch]):
    """Distance of the heat maps' centres and mass to the landmarks, and whether there is a face."""

    clip_norm = 5.0

    def __init__(self, config: LandmarksConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        torch.manual_seed(config.seed)
        self.net: LandmarkNet = LandmarkNet(names=LANDMARK_NAMES, size=config.size, widths=config.widths)

    def prepare(self) -> None:
        """Render faces and make pictures without one."""
        config = self.config
        faces, truth = bank(config.pictures, size=config.size, seed=config.seed)
        self.bank = torch.cat([faces, empty_pictures(config.empty, size=config.size, seed=config.seed)])
        self.truth = torch.cat([truth, torch.zeros(config.empty, *truth.shape[1:])])

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.net.parameters(), lr=self.config.rate, weight_decay=0.01)

    def rate(self, step: int) -> float:
        """Return a cosine schedule."""
        return self.config.rate * cosine(step, steps=self.steps)

    def draw(self, share: Share) -> Batch:
        """Draw rows of the pictures."""
        rows = share.rows(len(self.bank))
        image = wear(coarse(to_float(self.bank[rows]), share=share), streams=share.streams(), amount=0.7)
        device = self.setting.group.device
        return Batch(
            image_BCHW=image.to(device), truth_BK2=self.truth[rows].to(device), is_face_B=(rows < self.config.pictures).float().to(device)
        )

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; the landmarks' part is a mean over the expected number of faces, so that shares of a batch add up."""
        with self.mixed_precision():
            maps, score = self.net.heat_maps(batch.image_BCHW)
        miss, spread = distances(maps, batch.truth_BK2)
        faces = (self.config.pictures + self.config.empty) / self.config.pictures
        miss, spread = ((part * batch.is_face_B).mean() * faces for part in (miss, spread))
        loss = miss * 10 + spread * 3 + F.binary_cross_entropy_with_logits(score.float(), batch.is_face_B)
        return loss, {"error": miss}

    def measure(self, split: Split) -> dict[str, float]:
        """Return landmark errors as shares of the eye distance and rates of the face score."""
        return measure(self.net, seed=SEEDS[split] + 5, pictures=self.config.measured)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the share of pictures within 3 %."""
        return numbers["within_3pct"]

    def network_config(self) -> Mapping[str, object]:
        """Return the network's shape."""
        return {"names": list(LANDMARK_NAMES), "size": self.config.size, "widths": list(self.config.widths)}


@torch.no_grad()
def measure(net: LandmarkNet, *, seed: int, pictures: int = 1000, side_px: int = 192) -> dict[str, float]:
    """Return the landmark error on held-out raw pictures (share of the eye distance) and how many are within 3 %."""
    generator = seeded(seed)
    p: Parameters = sample_parameters(pictures, generator)
    frame = random_frames(p, generator=generator)
    truth = (picture_landmarks(p, frame) + 1) * (side_px / 2)
    misses, faces = [], 0
    for i in range(0, pictures, 50):
        raw = to_bytes(render(p.slice(slice(i, i + 50)), frame[i : i + 50], size=side_px)).permute(0, 2, 3, 1).numpy()
        points, score = net.locate(list(raw))
        misses.append(error(points, truth[i : i + 50]))
        faces += int((score > 0.5).sum())
    nothing = empty_pictures(max(1, pictures // 4), size=side_px, seed=seed).permute(0, 2, 3, 1).numpy()
    refused = float((net.locate(list(nothing))[1] < 0.5).float().mean())
    miss = torch.cat(misses)
    return {
        "error_mean": float(miss.mean()), "error_p95": float(miss.quantile(0.95)), "within_3pct": float((miss <= 0.03).float().mean()),
        "faces_found": faces / pictures, "empty_refused": refused,
    }  # fmt: skip


KIND = Kind(config=LandmarksConfig, objective=LandmarksObjective, network="landmarks", summary="landmark network and face score")
