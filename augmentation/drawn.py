"""Pictures that are nobody's: drawn from the generator, each from a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.stylegan2 import Generator


def draw(generator: Generator, seeds: Sequence[int], *, truncation: float, device: str) -> Tensor:
    """Return the pictures of seeds, (len(seeds), 3, H, W), RGB about [-1, 1]: w is moved to its mean by 1 - truncation (StyleGAN B)."""
    z_BD = torch.stack([torch.randn(generator.style_dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    w_BD = generator.mapping(z_BD.to(device, generator.conv1.conv.weight.dtype))
    if truncation != 1:
        w_BD = _mean(generator, w_BD).lerp(w_BD, truncation)
    return generator.synthesis(generator.repeat(w_BD))


def _mean(generator: Generator, like_BD: Tensor) -> Tensor:
    return generator.mean_latent().to(like_BD)[None]
