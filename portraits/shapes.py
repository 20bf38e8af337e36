"""Signed distances (negative inside, world units) and the few operations that turn them into anti-aliased paint.

x, y: world coordinates of the pixels (B, H, W); every parameter broadcasts as (B, 1, 1); `px`: size of a pixel in world units.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cover(distance: Tensor, px: Tensor) -> Tensor:
    """Return how much of each pixel lies inside, in [0, 1]."""
    return (0.5 - distance / px).clamp(0, 1)


def feather(distance: Tensor, width: Tensor | float) -> Tensor:
    """Return a smooth fall from 1 inside to 0 at `width` outside."""
    t = (1 - distance / width).clamp(0, 1)
    return t * t * (3 - 2 * t)


def ellipse(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Return an approximate distance to an axis-parallel ellipse with radii a, b."""
    nx, ny = x / a, y / b
    n = (nx * nx + ny * ny).sqrt().clamp_min(1e-4)
    return (n - 1) * n / ((nx / a) ** 2 + (ny / b) ** 2).sqrt().clamp_min(1e-4)


def superellipse(x: Tensor, y: Tensor, *, a: Tensor, b: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Return the radial distance to |x/a|^p + |y/b|^p = 1 and the level (1 on the outline, 0 at the centre)."""
    level = ((x / a).abs().clamp_min(1e-4).pow(power) + (y / b).abs().clamp_min(1e-4).pow(power)).pow(1 / power)
    radius = (x * x + y * y).sqrt()
    return radius * (1 - 1 / level.clamp_min(1e-3)), level


def segment(x: Tensor, y: Tensor, *, start: tuple[Tensor | float, Tensor | float], end: tuple[Tensor | float, Tensor | float]) -> Tensor:
    """Return the distance to a line segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    t = ((px * dx + py * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return ((px - t * dx) ** 2 + (py - t * dy) ** 2).sqrt()


def box(x: Tensor, y: Tensor, *, a: Tensor | float, b: Tensor | float, radius: float) -> Tensor:
    """Return the distance to a rounded box with half sizes a, b."""
    qx, qy = x.abs() - (a - radius), y.abs() - (b - radius)
    outside = (qx.clamp_min(0) ** 2 + qy.clamp_min(0) ** 2).sqrt()
    return outside + torch.maximum(qx, qy).clamp_max(0) - radius


def present(value: Tensor) -> Tensor:
    """Turn an attribute's amount into an opacity: what is there is there whole."""
    return (value * 1.6).clamp(0, 1)


def paint(canvas: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    """Lay `colour` (B, 3, 1, 1) or (B, 3, H, W) over the canvas (B, 3, H, W) with `alpha` (B, H, W)."""
    return torch.lerp(canvas, colour.expand_as(canvas), alpha.unsqueeze(1))
