"""Out-of-domain looks applied to a rendered picture. "zombie" is painted by the scene's colours; the others work on the finished pixels.

Every filter takes and returns (B, 3, H, W) in [0, 1] and scales with the resolution (the brush is a share of the picture).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from portraits.parameters import STYLE_NAMES

_LUMA = (0.299, 0.587, 0.114)


def apply_styles(image: Tensor, style: Tensor) -> Tensor:
    """Filter each picture in its own style; `style` (B,) indexes STYLE_NAMES."""
    filters = {"sketch": sketch, "cartoon": cartoon, "mosaic": mosaic, "oil": oil, "bronze": bronze}
    for name, filter_ in filters.items():
        rows = (style == STYLE_NAMES.index(name)).nonzero().flatten()
        if len(rows):
            image = image.index_copy(0, rows, filter_(image[rows]))
    return image


def luma(image: Tensor) -> Tensor:
    """Return the brightness, (B, 1, H, W)."""
    weights = torch.tensor(_LUMA, device=image.device)[None, :, None, None]
    return (image * weights).sum(1, keepdim=True)


def blur(image: Tensor, share: float) -> Tensor:
    """Blur with a Gaussian whose sigma is `share` of the picture's width."""
    sigma = max(share * image.shape[-1], 0.3)
    reach = max(1, int(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None, :].expand(image.shape[1], 1, -1)
    padded = F.pad(image, (reach, reach, reach, reach), mode="replicate")
    out = F.conv2d(padded, kernel[:, :, None, :], groups=image.shape[1])
    return F.conv2d(out, kernel[:, :, :, None], groups=image.shape[1])


def edges(image: Tensor, share: float) -> Tensor:
    """Return the strength of contours at a scale, (B, 1, H, W), about 1 on a clear edge."""
    smooth = blur(luma(image), share)
    step = max(1, round(image.shape[-1] / 64))
    dx = smooth - torch.roll(smooth, step, 3)
    dy = smooth - torch.roll(smooth, step, 2)
    dx[..., :step], dy[..., :step, :] = 0, 0
    return (dx * dx + dy * dy).sqrt() * 7


def sketch(image: Tensor) -> Tensor:
    """Draw in pencil: paper, contours, hatching in the shadows."""
    b, _, h, w = image.shape
    tone = blur(luma(image), 0.008)
    yy = torch.arange(h, device=image.device)[:, None] * (64 / h)
    xx = torch.arange(w, device=image.device)[None, :] * (64 / w)
    hatch = 0.5 + 0.5 * torch.sin((xx + yy) * 1.9)
    shadow = ((0.55 - tone) * 1.8).clamp(0, 1) * (0.35 + 0.65 * hatch)
    ink = (edges(image, 0.010).clamp(0, 1) * 0.85 + shadow * 0.75).clamp(0, 0.92)
    paper = torch.tensor([0.96, 0.95, 0.91], device=image.device)[None, :, None, None]
    graphite = torch.tensor([0.16, 0.16, 0.19], device=image.device)[None, :, None, None]
    return torch.lerp(paper.expand(b, -1, h, w), graphite.expand(b, -1, h, w), ink)


def cartoon(image: Tensor) -> Tensor:
    """Flatten to few saturated colours with black outlines."""
    flat = blur(image, 0.012)
    grey = luma(flat)
    flat = (grey + (flat - grey) * 1.75 + 0.04).clamp(0, 1)
    levels = 3.0
    posed = torch.round(flat * levels) / levels
    outline = (edges(image, 0.010) * 1.5 - 0.45).clamp(0, 1)
    return (posed * 0.85 + flat * 0.15) * (1 - outline)


def mosaic(image: Tensor) -> Tensor:
    """Lay square tiles with pale grout."""
    size = image.shape[-1]
    tiles = 16
    flat = F.adaptive_avg_pool2d(image, (tiles, tiles))
    grey = luma(flat)
    flat = (grey + (flat - grey) * 1.35).clamp(0, 1)
    big = F.interpolate(flat, size=(size, size), mode="nearest")
    place = (torch.arange(size, device=image.device) + 0.5) * (tiles / size)
    edge = (place - place.floor() - 0.5).abs()
    grout = ((torch.maximum(edge[:, None], edge[None, :]) - 0.34) * 9).clamp(0, 1)
    return torch.lerp(big, torch.full_like(big, 0.88), grout * 0.85)


def oil(image: Tensor) -> Tensor:
    """Paint with thick strokes that follow the forms, in warm colours, with relief."""
    b, _, h, w = image.shape
    smooth = blur(image, 0.013)
    yy = torch.arange(h, device=image.device)[:, None] * (64 / h)
    xx = torch.arange(w, device=image.device)[None, :] * (64 / w)
    stroke = torch.sin(xx * 1.15 + 2.2 * torch.sin(yy * 0.33)) * torch.sin(yy * 1.5 + 1.7 * torch.sin(xx * 0.41))
    bent = smooth + 0.075 * stroke
    warm = torch.tensor([1.10, 0.98, 0.72], device=image.device)[None, :, None, None]
    grey = luma(bent)
    rich = (grey + (bent - grey) * 1.5) * warm
    return torch.round(rich.clamp(0, 1) * 7) / 7


def bronze(image: Tensor) -> Tensor:
    """Cast in bronze: metal tones by brightness, with relief and patina."""
    tone = luma(image)
    relief = blur(tone, 0.008) - blur(tone, 0.035)
    level = (0.10 + 0.85 * tone + 0.9 * relief).clamp(0, 1)
    dark = torch.tensor([0.13, 0.07, 0.03], device=image.device)[None, :, None, None]
    middle = torch.tensor([0.66, 0.40, 0.14], device=image.device)[None, :, None, None]
    light = torch.tensor([1.0, 0.86, 0.52], device=image.device)[None, :, None, None]
    low = dark + (middle - dark) * (level * 2).clamp(0, 1)
    return torch.lerp(low, light.expand_as(low), (level * 2 - 1).clamp(0, 1))
