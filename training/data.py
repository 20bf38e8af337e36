"""Pictures to train on, rendered once and kept as bytes, and the wear that raw files and generators put on them.

Splits are by seed: training draws from seeds below HELD_OUT, every evaluation from HELD_OUT up; no person is in both.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from portraits import Parameters, render_aligned
from portraits.parameters import same_person, sample_parameters

HELD_OUT = 1_000_000
"""First seed of held-out people."""


def seeded(seed: int) -> torch.Generator:
    """Return a random stream of its own."""
    return torch.Generator().manual_seed(seed)


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


def wear(image_BCHW: Tensor, *, generator: torch.Generator, amount: float = 1.0) -> Tensor:
    """Blur, grain, and shift the light of float pictures at random, as compression, resampling and a generator do."""
    b = len(image_BCHW)
    blurred = F.avg_pool2d(F.pad(image_BCHW, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mix = torch.rand(b, 1, 1, 1, generator=generator) * amount
    image_BCHW = torch.lerp(image_BCHW, blurred, mix.clamp_max(1) * (torch.rand(b, 1, 1, 1, generator=generator) < 0.6))
    gain = 1 + 0.12 * amount * (torch.rand(b, 1, 1, 1, generator=generator) * 2 - 1)
    bias = 0.08 * amount * (torch.rand(b, 3, 1, 1, generator=generator) * 2 - 1)
    grain = torch.randn(image_BCHW.shape, generator=generator) * (torch.rand(b, 1, 1, 1, generator=generator) * 0.06 * amount)
    return (image_BCHW * gain + bias + grain).clamp(-1, 1)
