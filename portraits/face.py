"""The face itself: skin with light and age, eyes, brows, nose, mouth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portraits import palette
from portraits.scene import Scene
from portraits.shapes import cover, ellipse, feather, paint, present, segment, superellipse


def head(s: Scene, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """Paint the shaded skin; return the canvas and the distance to the face outline."""
    g, p = s.g, s.p
    distance, level, sag = outline(s)
    canvas = paint(canvas, s.skin * 0.90, sag)
    inside = cover(distance, s.px)
    round_off = level.clamp(0, 1.1) ** 4
    shade = 1.03 - 0.20 * round_off + (0.20 * s.light) * (s.x / g.head_width) - 0.05 * s.y
    tone = (s.skin * shade.unsqueeze(1)).clamp(0, 1)
    canvas = paint(canvas, tone, inside)
    rose = torch.tensor([0.93, 0.30, 0.34], device=s.x.device)[None, :, None, None]
    cheek = feather(ellipse((s.x - g.mouth_x).abs() - 0.33, s.y - 0.20, 0.15, 0.115) + 0.06, 0.16)
    canvas = paint(canvas, rose, cheek * inside * (0.05 + 0.62 * p["blush"]) * (1 - s.zombie))
    canvas = _freckles(s, canvas, inside)
    canvas = _age(s, canvas, inside)
    crease = segment(s.x, s.y - g.chin + 0.05 * (s.x / 0.4) ** 2, start=(-0.3, 0.0), end=(0.3, 0.0)) - 0.012
    return paint(canvas, s.skin * 0.62, cover(crease, s.px * 1.2) * (p["double_chin"] * 1.2).clamp(0, 0.9)), distance


def outline(s: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distance to the face outline, its level (1 on it, 0 in the middle), and how much a sagging chin covers."""
    g = s.g
    sag = feather(ellipse(s.x, s.y - g.chin - 0.015, g.head_width * 0.66, 0.15), s.px) * present(s.p["double_chin"])
    upper = s.y < 0
    distance, level = superellipse(
        s.x,
        s.y,
        a=g.head_width,
        b=torch.where(upper, g.head_top, g.chin),
        power=torch.where(upper, torch.full_like(g.chin, 2.1), g.jaw_power),
    )
    return distance, level, sag


def _freckles(s: Scene, canvas: Tensor, inside: Tensor) -> Tensor:
    g, p = s.g, s.p
    dots = torch.sin(s.x * 55 + 2 * torch.sin(s.y * 21)) * torch.sin(s.y * 61 + 2 * torch.sin(s.x * 17))
    area = feather(ellipse(s.x - g.nose_x * 0.7, s.y - 0.14, 0.36, 0.11), 0.08)
    canvas = paint(canvas, s.skin * torch.tensor([0.70, 0.55, 0.45], device=s.x.device)[None, :, None, None],
                   (dots * 2.2 - 0.7).clamp(0, 1) * area * inside * p["freckles"].clamp_min(0) * 0.85)  # fmt: skip
    mole = ((s.x - 0.30 * torch.sign(p["mole_x"]) - 0.06 * p["mole_x"]) ** 2 + (s.y - 0.30 - 0.12 * p["mole_y"]) ** 2).sqrt() - 0.026
    return paint(canvas, s.skin * 0.35, cover(mole, s.px) * inside * (p["mole_x"].abs() > 0.45).float())


def _age(s: Scene, canvas: Tensor, inside: Tensor) -> Tensor:
    """Paint forehead lines, crow's feet, bags under the eyes and the folds from nose to mouth."""
    g, p = s.g, s.p
    amount = (p["old"] * 1.2).clamp(0, 1)
    y = s.y - g.brow_y + 0.035 * (s.x / 0.3) ** 2
    lines = feather(((y + 0.13).remainder(0.085) - 0.0425).abs() - 0.008, 0.018) * feather(s.x.abs() - 0.26, 0.12)
    lines = lines * (y < -0.075).float() * (y > -0.30).float()
    ax = (s.x - g.eye_shift).abs() - g.eye_x
    bags = feather((ellipse(ax, s.y - g.eye_y - 0.035, g.eye_width * 0.95, 0.095)).abs() - 0.006, 0.024) * (s.y > g.eye_y + 0.05).float()
    feet_x = ax - g.eye_width - 0.03
    feet = feather(((s.y - g.eye_y).abs() - feet_x.clamp_min(0) * 0.6).abs() - 0.004, 0.018) * ((feet_x > 0) & (feet_x < 0.10)).float()
    mx = (s.x - g.mouth_x).abs()
    fold = segment(mx, s.y, start=(g.nose_width + 0.05, g.nose_y + 0.01), end=(g.mouth_width + 0.075, g.mouth_y + 0.05)) - 0.008
    wrinkles = torch.maximum(torch.maximum(lines, bags), torch.maximum(feet, feather(fold, 0.026)))
    return paint(
        canvas, s.skin * torch.tensor([0.56, 0.50, 0.50], device=s.x.device)[None, :, None, None], wrinkles * inside * amount * 0.85
    )


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """Both eyes: place along (`u`, -1 to 1) and above (`v`) an eye's middle, distances to eyeball and lashes (B, H, W)."""

    u: Tensor
    v: Tensor
    eyeball: Tensor
    lashes: Tensor


def eye_shapes(s: Scene) -> Eyes:
    """Return the shapes of both eyes."""
    g = s.g
    u = ((s.x - g.eye_shift).abs() - g.eye_x) / g.eye_width
    v = s.y - g.eye_y + g.eye_tilt * u * 0.3 * g.eye_width / 0.12
    arch = (1 - u * u).clamp_min(0)
    open_ = g.eye_height * (1 - 0.97 * present(s.p["eyes_closed"]))
    lid_up, lid_low = -arch * open_, arch * open_ * 0.72
    eyeball = torch.maximum(torch.maximum(lid_up - v, v - lid_low), (u.abs() - 1) * g.eye_width)
    lashes = torch.maximum((v - torch.where(open_ < 0.02, arch * 0.03, lid_up)).abs() - 0.015, (u.abs() - 1.06) * g.eye_width)
    return Eyes(u=u, v=v, eyeball=eyeball, lashes=lashes)


def eyes(s: Scene, canvas: Tensor) -> Tensor:
    """Paint both eyes and brows."""
    g, p, shapes = s.g, s.p, eye_shapes(s)
    u, v, x = shapes.u, shapes.v, s.x - g.eye_shift
    side = torch.sign(x)
    socket = feather(ellipse(u * g.eye_width, v, g.eye_width * 1.15, g.eye_height + 0.06), 0.09)
    canvas = paint(canvas, s.skin * (0.74 - 0.45 * s.zombie.unsqueeze(1)), socket * (0.40 + 0.5 * s.zombie))
    white = torch.tensor([0.97, 0.97, 0.98], device=x.device)[None, :, None, None]
    sick = torch.tensor([0.93, 0.90, 0.55], device=x.device)[None, :, None, None]
    eye = cover(shapes.eyeball, s.px)
    canvas = paint(canvas, torch.lerp(white, sick, s.zombie.unsqueeze(1)), eye)
    gaze = x.abs() - g.eye_x - side * 0.16 * g.eye_shift
    radius = (gaze * gaze + (v + 0.006) ** 2).sqrt()
    canvas = paint(canvas, palette.iris(p) * (1 - 0.5 * s.zombie.unsqueeze(1)), cover(radius - 0.060, s.px) * eye)
    canvas = paint(canvas, white * 0.05, cover(radius - 0.029, s.px) * eye)
    glint = ((gaze * side + 0.022) ** 2 + (v + 0.028) ** 2).sqrt() - 0.016
    canvas = paint(canvas, white, cover(glint, s.px) * eye * 0.95)
    canvas = paint(canvas, s.hair * 0.25, cover(shapes.lashes, s.px))
    return _brows(s, canvas, u)


def brow_distance(s: Scene, u: Tensor) -> Tensor:
    """Return the distance to the brows; `u` is that of `eye_shapes`."""
    g, p = s.g, s.p
    curve = g.brow_y - (0.028 + 0.022 * p["brow_arch"]) * (1 - u * u * 0.8) - g.brow_slant * g.eye_width * u * 0.9
    thick = (0.026 + 0.010 * p["brow_thickness"]) * (1.05 - 0.35 * u)
    return torch.maximum((s.y - curve).abs() - thick, (u.abs() - 1.18) * g.eye_width)


def _brows(s: Scene, canvas: Tensor, u: Tensor) -> Tensor:
    p, distance = s.p, brow_distance(s, u)
    grey = torch.tensor([0.80, 0.79, 0.77], device=s.x.device)[None, :, None, None]
    colour = torch.lerp(s.hair * 0.62, grey, 0.55 * (p["old"] * 1.2).clamp(0, 1).unsqueeze(1))
    return paint(canvas, colour, cover(distance, s.px) * 0.95)


def nose(s: Scene, canvas: Tensor) -> Tensor:
    """Paint the ridge in light and shadow, the wings and the nostrils."""
    g = s.g
    x, y = s.x - g.nose_x, s.y - g.nose_y
    ridge, tip = ridge_and_tip(s)
    canvas = paint(canvas, (s.skin * 1.14).clamp(0, 1), ridge * 0.5)
    canvas = paint(
        canvas, s.skin * torch.tensor([0.80, 0.70, 0.68], device=x.device)[None, :, None, None], feather(tip + 0.01, 0.04) * 0.60
    )
    canvas = paint(canvas, (s.skin * 1.08).clamp(0, 1), feather(ellipse(x, y + 0.03, g.nose_width * 0.62, 0.045) + 0.01, 0.03) * 0.7)
    nostril = ellipse(x.abs() - g.nose_width * 0.52, y - 0.026, 0.024, 0.014)
    return paint(canvas, s.skin * 0.34, cover(nostril, s.px) * 0.9)


def ridge_and_tip(s: Scene) -> tuple[Tensor, Tensor]:
    """Return how much of each pixel the ridge of the nose covers, and the distance to its tip with the wings."""
    g = s.g
    ridge = feather((s.x - g.nose_x * (0.4 + 0.6 * ((s.y - g.eye_y) / (g.nose_y - g.eye_y)).clamp(0, 1))).abs() - 0.02, 0.05)
    span = ((s.y > g.eye_y + 0.02) & (s.y < g.nose_y)).float()
    return ridge * span, ellipse(s.x - g.nose_x, s.y - g.nose_y + 0.005, g.nose_width, 0.062)


@dataclass(frozen=True, kw_only=True)
class Mouth:
    """A mouth: height above its middle line `v`, how far the lips reach `arch`, distances to its ends, to the lips and to the gap."""

    v: Tensor
    arch: Tensor
    gap_up: Tensor
    ends: Tensor
    lips: Tensor
    gap: Tensor
    is_open: Tensor


def mouth_shapes(s: Scene) -> Mouth:
    """Return the shapes of the mouth."""
    g, p = s.g, s.p
    u = (s.x - g.mouth_x) / g.mouth_width
    arch = (1 - u * u).clamp_min(0)
    centre = g.mouth_y + g.mouth_bend * (u * u - 0.35)
    v = s.y - centre
    gap_up, gap_low = -arch * g.mouth_open * 0.35, arch * g.mouth_open * 0.65
    ends = (u.abs() - 1) * g.mouth_width
    bow = 1 - 0.18 * feather(u.abs(), 0.25)
    lips = torch.maximum(torch.maximum(gap_up - arch * g.lip * 0.85 * bow - v, v - gap_low - arch * g.lip * 1.1), ends)
    return Mouth(
        v=v, arch=arch, gap_up=gap_up, ends=ends, lips=lips - 0.006 - 0.008 * p["lipstick"],
        gap=torch.maximum(torch.maximum(gap_up - v, v - gap_low), ends), is_open=(g.mouth_open * 25).clamp(0, 1),
    )  # fmt: skip


def mouth(s: Scene, canvas: Tensor) -> Tensor:
    """Paint lips, teeth and the line between closed lips."""
    p, m = s.p, mouth_shapes(s)
    natural = s.skin * torch.tensor([0.84, 0.57, 0.56], device=s.x.device)[None, :, None, None]
    bright = palette.lipstick(p)
    colour = torch.lerp(natural, bright, (p["lipstick"] * 1.15).clamp(0, 1).unsqueeze(1) * (1 - 0.7 * s.zombie.unsqueeze(1)))
    canvas = paint(canvas, colour, cover(m.lips, s.px))
    dark = torch.tensor([0.25, 0.06, 0.07], device=s.x.device)[None, :, None, None]
    inside = cover(m.gap, s.px) * m.is_open
    canvas = paint(canvas, dark, inside)
    teeth = cover(m.v - m.gap_up - 0.055 * m.arch.clamp_min(0.15), s.px) * inside * (p["smile"] * 1.5).clamp(0, 1)
    canvas = paint(canvas, dark * 0 + 0.96, teeth)
    line = torch.maximum(m.v.abs() - 0.011, m.ends - 0.005)
    return paint(canvas, colour * 0.42, cover(line, s.px) * (1 - m.is_open) * 0.9)
