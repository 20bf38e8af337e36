"""Pictures to train on, rendered once and kept as bytes, and the wear that raw files and generators put on them.

Splits are by seed: training draws from seeds below VALIDATION, reported numbers from HELD_OUT up; no person is in two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portraits import Parameters, render_aligned
from portraits.parameters import same_person, sample_parameters

VALIDATION = 500_000
"""First seed of the people that choose between checkpoints."""
HELD_OUT = 1_000_000
"""First seed of the people that every reported number is measured on."""
SEEDS = {"validation": VALIDATION, "held_out": HELD_OUT}


def seeded(seed: int) -> torch.Generator:
    """Return a random stream of its own."""
    return torch.Generator().manual_seed(seed)


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are."""
    return next(module.parameters()).device


def to_bytes(image_BCHW: Tensor) -> Tensor:
    """Store pictures in [-1, 1] as uint8."""
    return (image_BCHW * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(image_BCHW: Tensor) -> Tensor:
    """Read stored pictures back to [-1, 1]."""
    return image_BCHW.float() / 127.5 - 1


def aligned_bank(p: Parameters, *, size: int, seed: int, jitter: float = 0.012) -> Tensor:
    """Render aligned portraits with landmark-like jitter, as bytes (N, 3, size, size)."""
    generator = seeded(seed)
    step = 2048
    parts = [
        to_bytes(render_aligned(p.slice(slice(i, i + step)), size=size, jitter=jitter, generator=generator)) for i in range(0, len(p), step)
    ]
    return torch.cat(parts)


def people(n: int, *, pictures: int, seed: int) -> tuple[Parameters, Tensor]:
    """Draw `n` people with `pictures` pictures each; return parameters (n * pictures) and the person of each row."""
    generator = seeded(seed)
    who = sample_parameters(n, generator).repeat(pictures)
    return same_person(who, sample_parameters(n * pictures, generator)), torch.arange(n).repeat_interleave(pictures)


def wear(image_BCHW: Tensor, *, streams: Sequence[torch.Generator], amount: float = 1.0) -> Tensor:
    """Blur, grain, and shift the light of float pictures at random, as compression, resampling and a generator do.

    Every picture has its own random stream, so the same picture wears the same way in a batch of any size.
    """
    chance = torch.stack([torch.rand(8, generator=stream) for stream in streams])[:, :, None, None, None]
    noise = torch.stack([torch.randn(image_BCHW.shape[1:], generator=stream) for stream in streams])
    chance, noise = chance.to(image_BCHW.device), noise.to(image_BCHW.device)
    blurred = F.avg_pool2d(F.pad(image_BCHW, (1, 1, 1, 1), mode="replicate"), 3, 1)
    image_BCHW = torch.lerp(image_BCHW, blurred, (chance[:, 0] * amount).clamp_max(1) * (chance[:, 1] < 0.6))
    gain = 1 + 0.12 * amount * (chance[:, 2] * 2 - 1)
    bias = 0.08 * amount * (chance[:, 3:6, 0] * 2 - 1)
    return (image_BCHW * gain + bias + noise * (chance[:, 6] * 0.06 * amount)).clamp(-1, 1)
