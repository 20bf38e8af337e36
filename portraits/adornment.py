"""What grows on or is put on a head: hair, beard, moustache, hat, glasses."""

from __future__ import annotations

import torch
from torch import Tensor

from portraits.palette import hue
from portraits.scene import Scene
from portraits.shapes import box, cover, feather, paint, present, segment, superellipse


def beard(s: Scene, canvas: Tensor, face: Tensor) -> Tensor:
    """Paint a full beard round the mouth and a moustache under the nose; `face`: distance to the face outline."""
    full, lip = beard_and_mustache(s, face)
    texture = (0.86 + 0.10 * torch.sin(s.x * 70 + 5 * s.y) * torch.sin(s.y * 43)).unsqueeze(1)
    canvas = paint(canvas, s.hair * texture * 0.92, full)
    return paint(canvas, s.hair * texture * 0.85, lip)


def beard_and_mustache(s: Scene, face: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much of each pixel the beard and the moustache cover, (B, H, W) each."""
    g, p = s.g, s.p
    x, y = s.x - g.mouth_x, s.y - g.mouth_y
    upper = 0.02 - 0.55 * (x.abs() - g.mouth_width - 0.08).clamp_min(0)
    outline = torch.maximum(face - 0.045, upper - y + 0.0)
    around = -segment(x, y, start=(-g.mouth_width * 0.8, 0.012 + g.mouth_open * 0.2), end=(g.mouth_width * 0.8, 0.012 + g.mouth_open * 0.2))
    around = around + 0.075 + g.mouth_open * 0.45
    full = torch.maximum(outline, around)
    bend = y + 0.085 + g.mouth_open * 0.35 - 0.10 * (x / (g.mouth_width + 0.06)) ** 2
    lip = torch.maximum(bend.abs() - 0.040 * (1.2 - (x.abs() / (g.mouth_width + 0.05))), x.abs() - g.mouth_width - 0.05)
    parting = 1 - 0.5 * feather(x.abs() - 0.004, 0.02)
    return feather(full, s.px * 1.5 + 0.02) * present(p["beard"]), feather(lip, s.px) * parting * present(p["mustache"])


def front_hair(s: Scene, canvas: Tensor) -> Tensor:
    """Paint the hair on the skull down to the hairline, fringe and locks included."""
    g, p = s.g, s.p
    covered, hairline, skull = hair_on_skull(s)
    curl, angle = _curl(s), torch.atan2(s.x, -s.y)
    strands = 0.90 + 0.09 * torch.sin(angle * 26 + 4 * (s.y + 0.5)) + 0.10 * s.light * s.x
    shine = 0.28 * feather(((s.x - 0.25 * s.light) ** 2 * 0.6 + (s.y + 0.62) ** 2 * 6).sqrt() - 0.10, 0.34)
    texture = (strands + shine + curl * 0.14 * torch.sin(s.x * 33) * torch.sin(s.y * 33)).unsqueeze(1)
    shadow = feather(s.y - hairline - 0.005, 0.09) * feather(s.x.abs() - g.head_width * 0.9, 0.04) * cover(skull, s.px)
    visible = 1 - present(p["bald"])
    canvas = paint(canvas, s.skin * 0.60, shadow * 0.45 * visible)
    canvas = paint(canvas, (s.hair * texture).clamp(0, 1), covered)
    gleam = feather(((s.x - 0.2 * s.light - 0.05) ** 2 + ((s.y + 0.58) * 1.6) ** 2).sqrt() - 0.05, 0.16)
    return paint(canvas, torch.ones_like(s.skin), gleam * 0.55 * (1 - visible))


def hair_on_skull(s: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Return how much of each pixel the hair in front covers, the height of the hairline, and the distance to the skull."""
    g, p = s.g, s.p
    curl, angle = _curl(s), torch.atan2(s.x, -s.y)
    bumps = curl * (0.055 * torch.sin(angle * 15) + 0.02 * torch.sin(angle * 27 + 1)) + 0.01 * torch.sin(angle * 9)
    grow = 1.13 + 0.09 * curl
    skull, _ = superellipse(
        s.x, s.y + 0.02, a=g.head_width * grow, b=g.head_top * (1.10 + 0.05 * curl) + 0 * s.x, power=torch.full_like(g.chin, 2.2)
    )
    line = -0.47 - 0.045 * p["hairline"] + 0.42 * (s.x.abs() / g.head_width).clamp_max(1.1) ** 2.6
    parting = 0.05 * torch.sin(s.x * 5 + 2.0)
    fringe = g.brow_y - 0.02 + 0.025 * torch.sin(s.x * 34) + 0.10 * (s.x.abs() / 0.5) ** 2
    hairline = torch.lerp(line + parting, fringe, present(p["bangs"]))
    hairline = hairline + 0.03 * curl * torch.sin(s.x * 30)
    locks = present(p["long_hair"]) * 0.85
    sides = (s.x.abs() - g.head_width * 0.97).clamp_min(0)
    low = torch.where(sides > 0, 0.10 + locks * 1.2 + 4 * sides * locks, hairline)
    distance = torch.maximum(skull + bumps - 0.02, s.y - low)
    return cover(distance, s.px) * (1 - present(p["bald"])), hairline, skull


def _curl(s: Scene) -> Tensor:
    return (s.p["curly_hair"] * 1.3).clamp(0, 1)


def hat(s: Scene, canvas: Tensor) -> Tensor:
    """Paint a knitted hat with a folded brim."""
    crown, brim = crown_and_brim(s)
    colour = hue(s.p["hat_hue"], saturation=0.75, value=0.85)
    ribs = (0.90 + 0.10 * torch.sin(s.x * 42)).unsqueeze(1)
    canvas = paint(canvas, colour * ribs * (0.95 + 0.1 * (s.light * s.x).unsqueeze(1)), crown)
    folds = (0.72 + 0.08 * torch.sin(s.x * 42 + 1.5)).unsqueeze(1)
    return paint(canvas, colour * folds, brim)


def crown_and_brim(s: Scene) -> tuple[Tensor, Tensor]:
    """Return how much of each pixel the hat's crown and its brim cover, (B, H, W) each."""
    g, opacity = s.g, present(s.p["hat"])
    dome, _ = superellipse(s.x, s.y + 0.16, a=g.head_width * 1.17, b=g.head_top * 1.0 + 0 * s.x, power=torch.full_like(g.chin, 2.3))
    crown = torch.maximum(dome, s.y + 0.42)
    brim = box(s.x, s.y + 0.40 - 0.10 * (s.x / 0.6) ** 2, a=g.head_width * 1.17, b=0.105, radius=0.07)
    return cover(crown, s.px) * opacity, cover(brim, s.px) * opacity


def glasses(s: Scene, canvas: Tensor) -> Tensor:
    """Paint spectacles, or sunglasses with dark lenses."""
    g, p = s.g, s.p
    x = s.x - g.eye_shift * 1.15
    lens, wire = lenses_and_frame(s)
    dark = torch.tensor([0.06, 0.06, 0.09], device=x.device)[None, :, None, None]
    frame = torch.lerp(dark, hue(p["frame_hue"], saturation=0.8, value=0.45), 0.5)
    worn, tinted = present(p["glasses"]), present(p["sunglasses"])
    sheen = feather((x.abs() - g.eye_x + s.y - g.eye_y + 0.02).abs() - 0.015, 0.03)
    canvas = paint(canvas, torch.ones_like(frame), cover(lens, s.px) * worn * (0.08 + 0.22 * sheen))
    canvas = paint(canvas, dark + 0.16 * sheen.unsqueeze(1), cover(lens, s.px) * tinted * 0.96)
    return paint(canvas, frame, cover(wire, s.px) * torch.maximum(worn, tinted))


def lenses_and_frame(s: Scene) -> tuple[Tensor, Tensor]:
    """Return the distances to the lenses and to the frame of spectacles, worn or not."""
    g = s.g
    x = s.x - g.eye_shift * 1.15
    lens = box(x.abs() - g.eye_x, s.y - g.eye_y - 0.015, a=0.168, b=0.128, radius=0.085)
    bridge = torch.maximum((s.y - g.eye_y + 0.035 - 0.03 * (x / 0.09) ** 2).abs() - 0.017, x.abs() - g.eye_x + 0.15)
    temple = torch.maximum((s.y - g.eye_y + 0.03).abs() - 0.016, torch.maximum(g.eye_x + 0.155 - x.abs(), s.x.abs() - g.head_width))
    return lens, torch.minimum(torch.minimum(lens.abs() - 0.019, bridge), temple)
