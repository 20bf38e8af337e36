"""Train the landmark net on unaligned renders, whole views and close-ups alike, with pictures without a face beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models.perception import LandmarkNet, grid
from portraits import LANDMARK_NAMES, Parameters, render, sample_parameters
from portraits.raw import picture_landmarks, random_frames
from training.attributes import styled
from training.data import HELD_OUT, seeded, to_bytes, to_float, wear
from training.loop import Log, batches, cosine, half_precision, set_rate


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


def coarse(image_BCHW: Tensor, *, generator: torch.Generator) -> Tensor:
    """Take the detail out of half of the batch, as enlarging a small face does."""
    size = image_BCHW.shape[-1]
    small = int(torch.randint(size // 2, size, (1,), generator=generator))
    half = len(image_BCHW) // 2
    blurred = F.interpolate(image_BCHW[:half], size=(small, small), mode="bilinear", align_corners=False, antialias=True)
    return torch.cat([F.interpolate(blurred, size=(size, size), mode="bilinear", align_corners=False), image_BCHW[half:]])


def distances(maps_BKHW: Tensor, truth_BK2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the error of the maps' centres and the mean distance of their mass, (B,) each, as shares of the eye distance."""
    rows, columns = grid(maps_BKHW)
    centre = torch.stack([(maps_BKHW.sum(2) * columns).sum(2), (maps_BKHW.sum(3) * rows).sum(2)], 2)
    dx, dy = columns - truth_BK2[:, :, :1], rows - truth_BK2[:, :, 1:]
    away = (dy[:, :, :, None].square() + dx[:, :, None, :].square() + 1e-8).sqrt()
    eyes = (truth_BK2[:, 0] - truth_BK2[:, 1]).norm(dim=1)
    return error(centre, truth_BK2), (maps_BKHW * away).sum((2, 3)).mean(1) / eyes


def train(config: LandmarksConfig, folder: Path) -> tuple[LandmarkNet, dict[str, float]]:
    """Train and measure on held-out people; returns the net and its numbers."""
    torch.manual_seed(config.seed)
    net = LandmarkNet(names=LANDMARK_NAMES, size=config.size, widths=config.widths)
    pictures, truth = bank(config.pictures, size=config.size, seed=config.seed)
    pictures = torch.cat([pictures, empty_pictures(config.empty, size=config.size, seed=config.seed)])
    truth = torch.cat([truth, torch.zeros(config.empty, *truth.shape[1:])])
    is_face = torch.arange(len(pictures)) < config.pictures
    log = Log(folder / "landmarks.jsonl", name="landmarks", steps=config.steps)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.rate, weight_decay=0.01)
    generator = seeded(config.seed + 2)
    for step, rows in zip(range(config.steps), batches(len(pictures), batch=config.batch, generator=generator), strict=False):
        set_rate(optimizer, config.rate * cosine(step, steps=config.steps))
        with half_precision():
            maps, score = net.heat_maps(wear(coarse(to_float(pictures[rows]), generator=generator), generator=generator, amount=0.7))
        face = is_face[rows]
        miss, spread = distances(maps[face], truth[rows][face])
        loss = miss.mean() * 10 + spread.mean() * 3 + F.binary_cross_entropy_with_logits(score.float(), face.float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        if step % 100 == 0 or step + 1 == config.steps:
            log(step, loss=loss.item(), error=miss.mean().item())
    numbers = measure(net.eval(), seed=HELD_OUT + 5, pictures=config.measured)
    log(config.steps, **numbers)
    return net, numbers | {"training_s": round(log.seconds, 1)}


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
