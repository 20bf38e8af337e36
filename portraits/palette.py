"""Colours of the portraits world: ramps through fixed anchors in linear [0, 1] RGB, returned as (B, 3, 1, 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from portraits.parameters import ATTRIBUTE_GROUPS, Parameters

_SKIN = ((0.36, 0.22, 0.15), (0.55, 0.36, 0.25), (0.76, 0.56, 0.42), (0.90, 0.71, 0.57), (0.97, 0.82, 0.71))
_IRIS = ((0.24, 0.14, 0.08), (0.45, 0.28, 0.12), (0.35, 0.45, 0.22), (0.30, 0.52, 0.62), (0.28, 0.42, 0.74))
_HAIR = ((0.07, 0.06, 0.08), (0.36, 0.21, 0.12), (0.93, 0.77, 0.40), (0.74, 0.27, 0.10), (0.76, 0.77, 0.80))
_LIPSTICK = ((0.78, 0.05, 0.20), (0.86, 0.10, 0.12), (0.70, 0.05, 0.42))


def ramp(anchors: Sequence[tuple[float, float, float]], position: Tensor) -> Tensor:
    """Interpolate linearly through the anchors; `position` (B, 1, 1) in [-1, 1]."""
    table = torch.tensor(anchors, device=position.device)
    t = ((position.flatten() * 0.5 + 0.5) * (len(anchors) - 1)).clamp(0, len(anchors) - 1 - 1e-4)
    low = t.floor().long()
    colour = torch.lerp(table[low], table[low + 1], (t - low).unsqueeze(1))
    return colour[:, :, None, None]


def hue(position: Tensor, *, saturation: float, value: Tensor | float) -> Tensor:
    """Return the colour at `position` (B, 1, 1) in [-1, 1] round the hue circle."""
    phase = torch.tensor([0.0, 2.0944, 4.1888], device=position.device)[None, :, None, None]
    wave = 0.5 + 0.5 * torch.cos(position.unsqueeze(1) * torch.pi - phase)
    level = value.unsqueeze(1) if isinstance(value, Tensor) else value
    return level * (1 - saturation + saturation * wave)


def skin(p: Parameters) -> Tensor:
    """Return the skin colour."""
    warmth = torch.tensor([0.03, -0.005, -0.035], device=p.values.device)[None, :, None, None]
    return (ramp(_SKIN, p["skin_tone"]) + warmth * p["skin_warmth"].unsqueeze(1)).clamp(0, 1)


def iris(p: Parameters) -> Tensor:
    """Return the iris colour."""
    return ramp(_IRIS, p["iris"])


def lipstick(p: Parameters) -> Tensor:
    """Return the lipstick colour."""
    return ramp(_LIPSTICK, p["lip_hue"])


def hair(p: Parameters) -> Tensor:
    """Return the hair colour: the mixture of the five classes, lighter or darker by `hair_shade`."""
    weights = p.columns(ATTRIBUTE_GROUPS["hair_colour"])
    colour = (weights @ torch.tensor(_HAIR, device=weights.device))[:, :, None, None]
    return (colour * (1 + 0.14 * p["hair_shade"].unsqueeze(1))).clamp(0, 1)
