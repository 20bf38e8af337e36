"""Which part of a portrait every pixel shows, from the same shapes that paint the picture."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from portraits import adornment, backdrop, face
from portraits.parameters import Parameters
from portraits.render import CHUNK_PIXELS
from portraits.scene import Scene, scene
from portraits.shapes import cover, feather, present

PART_NAMES: tuple[str, ...] = (
    "background", "hair", "clothes", "neck", "ears", "skin", "nose", "beard", "mouth", "eyes", "brows", "hat", "glasses",
)  # fmt: skip
"""Earrings belong to the ears, a moustache to the beard, lashes to the eyes; clear lenses show what is behind them."""


@torch.no_grad()
def part_map(p: Parameters, frame_B23: Tensor, *, size: int = 64) -> Tensor:
    """Return the index in PART_NAMES of what each pixel of `render(p, frame_B23, size=size)` shows, uint8 (B, size, size).

    A part is in front where it covers more than half of a pixel. A style changes colours, not parts, but for the mosaic's blocks.
    """
    step = max(1, CHUNK_PIXELS // (size * size))
    return torch.cat([_chunk(scene(p.slice(slice(i, i + step)), frame_B23[i : i + step], size)) for i in range(0, len(p), step)])


def _chunk(s: Scene) -> Tensor:
    shown = torch.zeros(s.x.shape, dtype=torch.uint8, device=s.x.device)
    for name, covered in _layers(s):
        shown = torch.where(covered > 0.5, PART_NAMES.index(name), shown)
    return shown


def _layers(s: Scene) -> Iterator[tuple[str, Tensor]]:
    """Yield the parts from back to front, as the renderer paints them, with how much of each pixel they cover."""
    yield "hair", backdrop.hanging(s)
    shoulder, neck, collar = backdrop.shoulders_and_neck(s)
    yield "clothes", cover(shoulder, s.px)
    yield "neck", cover(torch.minimum(neck, collar), s.px)
    ear, ring, _ = backdrop.ears_and_rings(s)
    yield "ears", torch.maximum(cover(ear, s.px), cover(ring, s.px) * present(s.p["earrings"]))
    outline, _, sag = face.outline(s)
    yield "skin", torch.maximum(sag, cover(outline, s.px))
    ridge, tip = face.ridge_and_tip(s)
    yield "nose", torch.maximum(ridge, feather(tip + 0.01, 0.04))
    yield "beard", torch.maximum(*adornment.beard_and_mustache(s, outline))
    mouth = face.mouth_shapes(s)
    yield "mouth", torch.maximum(cover(mouth.lips, s.px), cover(mouth.gap, s.px) * mouth.is_open)
    eyes = face.eye_shapes(s)
    yield "eyes", torch.maximum(cover(eyes.eyeball, s.px), cover(eyes.lashes, s.px))
    yield "brows", cover(face.brow_distance(s, eyes.u), s.px) * 0.95
    yield "hair", adornment.hair_on_skull(s)[0]
    yield "hat", torch.maximum(*adornment.crown_and_brim(s))
    lens, wire = adornment.lenses_and_frame(s)
    worn, tinted = present(s.p["glasses"]), present(s.p["sunglasses"])
    yield "glasses", torch.maximum(cover(lens, s.px) * tinted * 0.96, cover(wire, s.px) * torch.maximum(worn, tinted))
