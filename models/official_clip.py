"""How the released losses show a picture to CLIP, one function for each convention; the pack's own `ClipModel` follows HyperEditor's.

Shape legend: B batch, H/W rows/columns. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models.clip import CLIP_MEAN, CLIP_STD

SIDE = 224
ENLARGED = 7


def imagenet_templates() -> tuple[str, ...]:
    """Return CLIP's prompt templates for ImageNet, as open_clip has them. Differs: it lists 80, HyperEditor's file 79 of them."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def hypereditor_view(image_BCHW: Tensor) -> Tensor:
    """Return (B, 3, 224, 224): adaptive average pooling, then CLIP's mean and deviation (HyperEditor)."""
    mean, std = (torch.tensor(values).to(image_BCHW)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (F.adaptive_avg_pool2d(image_BCHW, (SIDE, SIDE)) * 0.5 + 0.5 - mean) / std


def styleclip_view(image_BCHW: Tensor) -> Tensor:
    """Return (B, 3, 224, 224) still in [-1, 1]: enlarged 7 times, then average-pooled (StyleCLIP, CLIPInverter).

    Raises ValueError unless the picture's side is a multiple of 32.
    """
    size = image_BCHW.shape[-1]
    if size % (SIDE // ENLARGED):
        raise ValueError(f"CLIP view: expected a side that is a multiple of {SIDE // ENLARGED}, found {size}")
    return F.avg_pool2d(F.interpolate(image_BCHW, scale_factor=ENLARGED), size * ENLARGED // SIDE)
