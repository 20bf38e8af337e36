"""Behind the face: background, long hair, shoulders, neck, ears."""

from __future__ import annotations

import torch
from torch import Tensor

from portraits.palette import hue
from portraits.scene import Scene
from portraits.shapes import box, cover, ellipse, feather, paint, present, segment


def background(s: Scene) -> Tensor:
    """Paint a two-colour gradient with a soft glow behind the head."""
    p = s.p
    level = 0.62 + 0.28 * p["background_light"]
    near = hue(p["background_hue"], saturation=0.45, value=level)
    far = hue(p["background_hue"] + 0.35 * p["background_contrast"], saturation=0.55, value=level * 0.62)
    gloom = torch.tensor([0.20, 0.26, 0.20], device=s.x.device)[None, :, None, None]
    near, far = (torch.lerp(c, gloom * (0.4 + c.mean(1, keepdim=True)), 0.75 * s.zombie.unsqueeze(1)) for c in (near, far))
    angle = p["background_angle"] * torch.pi
    slope = (s.x * angle.cos() + s.y * angle.sin()) * 0.33 + 0.5
    glow = feather((s.x * s.x + s.y * s.y).sqrt() - 0.7, 1.1)
    mix = (slope * 0.7 + 0.3 * (1 - glow)).clamp(0, 1)
    return torch.lerp(near.expand(-1, -1, *s.x.shape[1:]), far.expand(-1, -1, *s.x.shape[1:]), mix.unsqueeze(1))


def back_hair(s: Scene, canvas: Tensor) -> Tensor:
    """Paint the hair that hangs behind the shoulders."""
    strands = 0.80 + 0.12 * torch.sin(s.x * 38 + 3 * torch.sin(s.y * 2.5))
    return paint(canvas, s.hair * strands.unsqueeze(1), hanging(s))


def hanging(s: Scene) -> Tensor:
    """Return how much of each pixel the hair behind the shoulders covers, (B, H, W)."""
    g, p = s.g, s.p
    wave = 0.055 * p["curly_hair"] * torch.sin(s.y * 17) + 0.012 * torch.sin(s.y * 9 + 1.0)
    width = g.head_width + 0.17 + 0.07 * p["curly_hair"]
    hang = box(s.x.abs() - wave, s.y - 0.22, a=width - 0.02, b=width * 0 + 0.86, radius=0.42)
    return cover(hang, s.px) * present(p["long_hair"])


def body(s: Scene, canvas: Tensor) -> Tensor:
    """Paint shoulders with a collar, and the neck with the shadow of the chin."""
    g, p = s.g, s.p
    cloth = hue(p["cloth_hue"], saturation=0.6, value=0.62 + 0.3 * p["cloth_light"])
    shoulder, neck, collar = shoulders_and_neck(s)
    fold = (1 - 0.16 * (s.x.abs() - 0.2).clamp(0, 1) + 0.10 * s.x * s.light).unsqueeze(1)
    canvas = paint(canvas, (cloth * fold).clamp(0, 1), cover(shoulder, s.px))
    canvas = paint(canvas, cloth * 0.72, cover(collar - 0.035, s.px) * cover(shoulder, s.px))
    skin = torch.minimum(neck, collar)
    shadow = 0.80 - 0.20 * feather(s.y - g.chin - 0.05, 0.16)
    return paint(canvas, s.skin * shadow.unsqueeze(1), cover(skin, s.px))


def shoulders_and_neck(s: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distances to the shoulders, the neck and the skin that the collar leaves free."""
    g = s.g
    top = g.chin + 0.20
    shoulder = torch.minimum(ellipse(s.x, s.y - top - 0.55, 1.12, 0.58), torch.maximum(s.x.abs() - 1.12, top + 0.5 - s.y))
    neck_width = g.head_width * 0.50 + 0.03 * s.p["double_chin"]
    neck = torch.maximum(box(s.x, s.y - g.chin, a=neck_width, b=0.36, radius=0.10), -(s.y - g.chin + 0.4))
    return shoulder, neck, ellipse(s.x, s.y - top - 0.04, neck_width * 1.12, 0.17)


def ears(s: Scene, canvas: Tensor) -> Tensor:
    """Paint both ears (the far one slips behind a turned head) and earrings."""
    ear, ring, away = ears_and_rings(s)
    size = _ear_size(s)
    inner = ellipse(away - 0.01, s.y - 0.06, size * 0.36, size * 0.8)
    canvas = paint(canvas, s.skin * 0.93, cover(ear, s.px))
    canvas = paint(canvas, s.skin * 0.72, cover(inner, s.px) * 0.8)
    gold = torch.tensor([0.98, 0.82, 0.22], device=s.x.device)[None, :, None, None]
    shine = 1.0 - 0.35 * feather((away - 0.045).abs() - 0.0, 0.04)
    return paint(canvas, (gold * shine.unsqueeze(1)).clamp(0, 1), cover(ring, s.px) * present(s.p["earrings"]))


def ears_and_rings(s: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distances to the ears and to their rings, and how far to the side of an ear's middle each pixel is."""
    size, side = _ear_size(s), torch.sign(s.x)
    away = (s.x.abs() - s.g.head_width + 0.015) - 0.05 * side * s.p["yaw"] * -1
    ear = ellipse(away, s.y - 0.06, size * 0.72, size * 1.35)
    ring = (segment(away - 0.03, s.y - 0.06, start=(0.0, size * 1.5), end=(0.0, size * 1.5 + 0.09))) - 0.042
    return ear, ring, away


def _ear_size(s: Scene) -> Tensor:
    return 0.105 + 0.025 * s.p["ear_size"]
