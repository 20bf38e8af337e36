"""Inverters: from aligned images to the generator state that reproduces them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.encoders import Encoder4Editing, WEncoder
from models.state import GeneratorState


class Inverter(Protocol):
    """Turn aligned images, RGB in [-1, 1], (B, 3, H, W), into a generator state of B images."""

    name: str

    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return the state whose image is closest to each input, as this inverter sees it."""
        ...


class EncoderInverter:
    """Invert with one forward pass of an encoder, whose residual is added to the mean latent."""

    def __init__(self, name: str, encoder: Encoder4Editing | WEncoder, *, latent_avg: Tensor) -> None:
        if latent_avg.ndim not in (1, 2):
            raise ValueError(f"inverter {name!r}: latent_avg must have shape (D,) or (L, D), found {tuple(latent_avg.shape)}")
        self.name = name
        self.encoder = encoder
        self.latent_avg = latent_avg

    @torch.no_grad()
    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return latents only; images are pooled to the encoder's input size first."""
        residual_BLD = self.encoder(pooled(images_BCHW, self.encoder.input_size))
        return GeneratorState(latents_BLD=residual_BLD + self.latent_avg.to(residual_BLD))


def pooled(images_BCHW: Tensor, size: int) -> Tensor:
    """Average-pool images to `size` x `size`, as encoders, identity and CLIP see a generator's output."""
    if images_BCHW.shape[2:] == (size, size):
        return images_BCHW
    return F.adaptive_avg_pool2d(images_BCHW, (size, size))
