"""The parameters of a portrait: identity, attributes and nuisance, and the law that draws them from a Gaussian latent.

One law serves two readers. Datasets use it with hard decisions (an attribute is there or not), the generator's teacher with soft
ones (a narrow ramp between the two), so that the same latent always means the same person.

Shapes: B portraits, P parameters, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LATENT_DIM = 128

IDENTITY_NAMES: tuple[str, ...] = (
    "face_width", "face_length", "jaw_square", "chin_length", "skin_tone", "skin_warmth", "eye_size", "eye_spacing", "eye_tilt",
    "iris", "brow_thickness", "brow_height", "brow_arch", "nose_length", "nose_width", "mouth_width", "lip_fullness", "ear_size",
    "hairline", "freckles", "mole_x", "mole_y",
)  # fmt: skip
"""Identity: drawn once per person, in [-1, 1]; never touched by an attribute."""

_EXPRESSIONS = ("neutral", "smile", "sad", "surprised", "angry")
_EYEWEAR = ("no_eyewear", "glasses", "sunglasses")
_HAIR_COLOURS = ("hair_black", "hair_brown", "hair_blond", "hair_red", "hair_grey")
STYLE_NAMES: tuple[str, ...] = ("photo", "sketch", "cartoon", "mosaic", "zombie", "oil", "bronze")
"""Rendering styles; every one but "photo" is out of the generator's domain."""

ATTRIBUTE_GROUPS: Mapping[str, tuple[str, ...]] = {"expression": _EXPRESSIONS, "eyewear": _EYEWEAR, "hair_colour": _HAIR_COLOURS}
"""Attributes of which exactly one holds."""

_GROUP_BIAS: Mapping[str, tuple[float, ...]] = {
    "expression": (0.9, 0.0, 0.0, 0.0, 0.0),
    "eyewear": (1.6, 0.0, -0.3),
    "hair_colour": (0.3, 0.3, 0.1, -0.2, -0.4),
}

_BINARY_RATE: Mapping[str, float] = {
    "beard": 0.22, "mustache": 0.18, "lipstick": 0.25, "blush": 0.22, "bangs": 0.28, "long_hair": 0.35, "curly_hair": 0.28,
    "bald": 0.12, "hat": 0.15, "earrings": 0.22, "old": 0.25, "double_chin": 0.2, "eyes_closed": 0.14,
}  # fmt: skip
"""Attributes that hold or not, with how often they do."""

ATTRIBUTE_NAMES: tuple[str, ...] = (*_EXPRESSIONS, *_EYEWEAR, *_HAIR_COLOURS, *_BINARY_RATE)

NUISANCE_NAMES: tuple[str, ...] = (
    "yaw", "light", "warm_light", "hair_shade", "strength", "background_hue", "background_light", "background_angle", "background_contrast",
    "cloth_hue", "cloth_light", "hat_hue", "lip_hue", "frame_hue",
)  # fmt: skip
"""What changes from picture to picture without being identity or attribute, in [-1, 1]."""

NAMES: tuple[str, ...] = IDENTITY_NAMES + ATTRIBUTE_NAMES + NUISANCE_NAMES
_COLUMN: Mapping[str, int] = {name: i for i, name in enumerate(NAMES)}

# What cannot be together with what: the first one wins.
_EXCLUDES: Mapping[str, tuple[str, ...]] = {"bald": ("bangs", "long_hair", "curly_hair"), "hat": ("bald",), "sunglasses": ("eyes_closed",)}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Hold the parameters of B portraits: `values` (B, P) by column of NAMES, and one style index per portrait (B,)."""

    values: Tensor
    style: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> Tensor:
        """Return one parameter as (B, 1, 1), ready to broadcast over pixels."""
        return self.values[:, _COLUMN[name], None, None]

    def slice(self, rows: slice | Tensor) -> Parameters:
        """Return the portraits of `rows`."""
        return Parameters(values=self.values[rows], style=self.style[rows])

    def repeat(self, times: int) -> Parameters:
        """Repeat every portrait `times` times in a row."""
        return Parameters(values=self.values.repeat_interleave(times, 0), style=self.style.repeat_interleave(times, 0))

    def with_values(self, changes: Mapping[str, float | Tensor]) -> Parameters:
        """Return a copy with some parameters set; exclusive groups and impossible pairs are kept consistent."""
        values = self.values.clone()
        for name, value in changes.items():
            for group in ATTRIBUTE_GROUPS.values():
                if name in group:
                    values[:, [_COLUMN[other] for other in group]] = 0.0
            values[:, _COLUMN[name]] = value
            for other in _EXCLUDES.get(name, ()):
                values[:, _COLUMN[other]] = torch.where(values[:, _COLUMN[name]] > 0.5, 0.0, values[:, _COLUMN[other]])
        return replace(self, values=values)

    def with_table(self, values: Mapping[str, Tensor]) -> Parameters:
        """Return a copy with parameters (B,) set as given, whole groups at once; impossible pairs are kept apart."""
        table = self.values.clone()
        for name, column in values.items():
            table[:, _COLUMN[name]] = column
        for name, others in _EXCLUDES.items():
            for other in others:
                table[:, _COLUMN[other]] = torch.where(table[:, _COLUMN[name]] > 0.5, 0.0, table[:, _COLUMN[other]])
        return replace(self, values=table)

    def with_style(self, style: str) -> Parameters:
        """Return a copy rendered in another style."""
        return replace(self, style=torch.full_like(self.style, STYLE_NAMES.index(style)))

    def columns(self, names: Sequence[str]) -> Tensor:
        """Return the named parameters as (B, len(names))."""
        return self.values[:, [_COLUMN[name] for name in names]]

    def attributes(self) -> Tensor:
        """Return which attributes hold, boolean (B, len(ATTRIBUTE_NAMES))."""
        return self.columns(ATTRIBUTE_NAMES) > 0.5

    @staticmethod
    def concatenate(parts: Sequence[Parameters]) -> Parameters:
        """Join portraits along the batch."""
        return Parameters(values=torch.cat([p.values for p in parts]), style=torch.cat([p.style for p in parts]))


def parameters_from_latent(latent_BD: Tensor, *, softness: float = 0.0) -> Parameters:
    """Read portraits from Gaussian latents (B, D >= LATENT_DIM); `softness` > 0 turns decisions into ramps of that width (in sigmas)."""
    z = latent_BD[:, :LATENT_DIM]
    parts: dict[str, Tensor] = {}
    column = 0
    for name in IDENTITY_NAMES + NUISANCE_NAMES:
        parts[name] = torch.erf(z[:, column] / 2**0.5) if name not in ("freckles",) else _ramp(z[:, column] - 0.9, softness)
        column += 1
    amount = 0.85 + 0.15 * parts["strength"]
    for group, names in ATTRIBUTE_GROUPS.items():
        scores = z[:, column : column + len(names)] + torch.tensor(_GROUP_BIAS[group], device=z.device)
        column += len(names)
        hard = torch.nn.functional.one_hot(scores.argmax(1), len(names)).to(z.dtype)
        weights = hard if softness <= 0 else (scores / softness).softmax(1)
        scale = amount if group == "expression" else torch.ones_like(amount)
        parts |= {name: weights[:, i] * (scale if i else 1.0) for i, name in enumerate(names)}
    for name, rate in _BINARY_RATE.items():
        threshold = float(torch.special.ndtri(torch.tensor(1.0 - rate)))
        parts[name] = _ramp(z[:, column] - threshold, softness) * amount
        column += 1
    for name, excluded in _EXCLUDES.items():
        for other in excluded:
            parts[other] = parts[other] * (1.0 - (parts[name] * 2).clamp(0, 1))
    values = torch.stack([parts[name] for name in NAMES], 1)
    return Parameters(values=values, style=torch.zeros(len(z), dtype=torch.long, device=z.device))


def sample_parameters(n: int, generator: torch.Generator | None = None) -> Parameters:
    """Draw `n` people with hard decisions, all in "photo" style."""
    return parameters_from_latent(torch.randn(n, LATENT_DIM, generator=generator))


def same_person(identity: Parameters, other: Parameters) -> Parameters:
    """Give `other`'s pictures (attributes, nuisance) the identity of `identity`, row by row."""
    columns = [_COLUMN[name] for name in IDENTITY_NAMES]
    values = other.values.clone()
    values[:, columns] = identity.values[:, columns]
    return replace(other, values=values)


def _ramp(x: Tensor, softness: float) -> Tensor:
    return (x > 0).to(x.dtype) if softness <= 0 else torch.sigmoid(x / softness)
