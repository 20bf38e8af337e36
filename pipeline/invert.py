"""Invert: aligned pictures to generator states, and the pictures that the generator makes of those.

Shapes: B pictures, H/W size, C = 3. Pixels are uint8 HWC on disk and float RGB in [-1, 1] BCHW in networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.inversion import Inversion
from models.inverters import Inverter
from models.stylegan2 import Generator
from pipeline.images import ImageHWC


def invert(inverter: Inverter, generator: Generator, image_BCHW: Tensor) -> Inversion:
    """Find the states of a batch of aligned pictures (RGB in [-1, 1])."""
    state = inverter.invert(image_BCHW)
    return Inversion(aligned_BCHW=image_BCHW, state=state, made_BCHW=generator(state))


def to_tensor(images: Sequence[ImageHWC], *, device: str | torch.device) -> Tensor:
    """Stack uint8 pictures of one size to RGB floats in [-1, 1], (B, 3, H, W)."""
    pixels_BHWC = torch.from_numpy(np.stack(images)).to(device)
    return pixels_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(image_BCHW: Tensor) -> list[ImageHWC]:
    """Return uint8 pictures (H, W, 3) of RGB floats in [-1, 1]; values beyond are clipped."""
    pixels_BHWC = ((image_BCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return list(pixels_BHWC)
