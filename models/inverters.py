"""Inverters that look once or a few times: from aligned images to the generator state that reproduces them.

Shape legend: B batch, C channels, H/W rows/columns, L latent slots, D style width. Those that optimise are in `optimisation.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.encoders import Encoder4Editing, WEncoder
from models.hyperstyle import HyperStyle
from models.layers import PictureSize, sides
from models.restyle import ReStyleEncoder, ReStyleResNetEncoder
from models.state import GeneratorState
from models.stylegan2 import Generator

ITERATIONS = 5
"""Passes of ReStyle and HyperStyle, as their papers train and measure."""


class Inverter(Protocol):
    """Turn aligned images, RGB in [-1, 1], (B, 3, H, W), into a generator state of B images."""

    name: str

    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return the state whose image is closest to each input, as this inverter sees it."""
        ...


class EncoderInverter:
    """Invert with one forward pass of an encoder, whose residual is added to the mean latent."""

    def __init__(self, name: str, encoder: Encoder4Editing | WEncoder, *, latent_avg: Tensor) -> None:
        self.name = name
        self.encoder = encoder
        self.latent_avg = _checked_mean(name, latent_avg)

    @torch.no_grad()
    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return latents only; images are pooled to the encoder's input size first."""
        residual_BLD = self.encoder(pooled(images_BCHW, self.encoder.input_size))
        return GeneratorState(latents_BLD=residual_BLD + self.latent_avg.to(residual_BLD))


class ReStyleInverter:
    """Invert in steps: each looks at the image beside its present reconstruction, the first beside the mean latent's picture.

    Source: ReStyle section 3.2. `iterations` counts the steps.
    """

    def __init__(
        self, name: str, encoder: ReStyleEncoder | ReStyleResNetEncoder, *, generator: Generator, latent_avg: Tensor,
        iterations: int = ITERATIONS,
    ) -> None:  # fmt: skip
        self.name = name
        self.encoder = encoder
        self.generator = generator
        self.latent_avg = _checked_mean(name, latent_avg)
        self.iterations = _checked_iterations(name, iterations)
        self._start: Tensor | None = None

    @torch.no_grad()
    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return latents only."""
        size = self.encoder.input_size
        image = pooled(images_BCHW, size)
        latents = self._mean_latents().to(image).expand(len(image), -1, -1)
        seen = self._average_picture(image).expand(len(image), -1, -1, -1)
        for iteration in range(self.iterations):
            if iteration:
                seen = pooled(self.generator.synthesis(latents), size)
            latents = latents + self.encoder(image, seen)
        return GeneratorState(latents_BLD=latents)

    def _mean_latents(self) -> Tensor:
        mean = self.latent_avg
        return mean[None] if mean.ndim == 2 else self.generator.repeat(mean[None])

    def _average_picture(self, like: Tensor) -> Tensor:
        if self._start is None or self._start.device != like.device:
            self._start = pooled(self.generator.synthesis(self._mean_latents().to(like)), self.encoder.input_size)
        return self._start


class HyperStyleInverter:
    """Invert into W by an encoder, then move the generator's weights towards the image in a few passes of a hypernetwork.

    Source: HyperStyle sections 3.2 and 3.3. The latents stay those of the encoder; the offsets of all passes add up (eq. 6).
    `latent_avg` is that of the hypernetwork's checkpoint, whatever the W encoder's own says.
    """

    def __init__(
        self, name: str, hypernetwork: HyperStyle, *, encoder: Encoder4Editing | WEncoder, generator: Generator, latent_avg: Tensor,
        iterations: int = ITERATIONS,
    ) -> None:  # fmt: skip
        self.name = name
        self.hypernetwork = hypernetwork
        self.generator = generator
        self.iterations = _checked_iterations(name, iterations)
        self.start = EncoderInverter(name, encoder, latent_avg=latent_avg)

    @torch.no_grad()
    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return latents in W, repeated over the slots, and offsets."""
        return self.refine(images_BCHW, self.start.invert(images_BCHW))

    @torch.no_grad()
    def refine(self, images_BCHW: Tensor, state: GeneratorState) -> GeneratorState:
        """Return a state with the same latents and offsets that bring its image closer to the one given."""
        *_, last = self.passes(images_BCHW, state)
        return last

    def passes(self, images_BCHW: Tensor, state: GeneratorState) -> Iterator[GeneratorState]:
        """Yield the state after every pass."""
        size = self.hypernetwork.input_size
        image = pooled(images_BCHW, size)
        offsets: dict[int, Tensor] = {}
        for _ in range(self.iterations):
            seen = pooled(self.generator.synthesis(state.latents_BLD, offsets), size)
            step = self.hypernetwork(image, seen)
            offsets = {index: offsets[index] + offset if index in offsets else offset for index, offset in step.items()}
            yield GeneratorState(latents_BLD=state.latents_BLD, offsets=offsets, domain=state.domain)


def pooled(images_BCHW: Tensor, size: PictureSize) -> Tensor:
    """Average-pool images to `size`, as encoders, identity and CLIP see a generator's output.

    Of square images a network that looks at a wider or higher picture sees the middle: StyleGAN2's cars lie in rows 64 to 447 of 512, so
    an encoder of 192 x 256 sees rows 32 to 223 of 256 (released code of e4e, ReStyle and HyperStyle).
    """
    height, width = sides(size)
    if tuple(images_BCHW.shape[2:]) == (height, width):
        return images_BCHW
    if images_BCHW.shape[2] != images_BCHW.shape[3] or height == width:
        return F.adaptive_avg_pool2d(images_BCHW, (height, width))
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return pooled(images_BCHW, side)[:, :, top : top + height, left : left + width]


def _checked_mean(name: str, latent_avg: Tensor) -> Tensor:
    if latent_avg.ndim not in (1, 2):
        raise ValueError(f"inverter {name!r}: latent_avg must have shape (D,) or (L, D), found {tuple(latent_avg.shape)}")
    return latent_avg


def _checked_iterations(name: str, iterations: int) -> int:
    if iterations < 1:
        raise ValueError(f"inverter {name!r}: expected 1 or more iterations, found {iterations}")
    return iterations
