"""Render portraits at any resolution, in batches, on any device: signed distances painted back to front."""

from __future__ import annotations

import torch
from torch import Tensor

from portraits import adornment, backdrop, face
from portraits.landmarks import landmarks
from portraits.parameters import Parameters
from portraits.scene import scene
from portraits.styles import apply_styles

CHUNK_PIXELS = 16 * 64 * 64  # planes of this many pixels stay in a core's cache


@torch.no_grad()
def render(p: Parameters, frame_B23: Tensor, *, size: int = 64) -> Tensor:
    """Render B portraits to (B, 3, size, size) in [-1, 1]; `frame_B23` maps picture coordinates in [-1, 1] to world units."""
    step = max(1, CHUNK_PIXELS // (size * size))
    chunks = [_render_chunk(p.slice(slice(i, i + step)), frame_B23[i : i + step], size) for i in range(0, len(p), step)]
    return torch.cat(chunks)


def aligned_frame(p: Parameters) -> Tensor:
    """Return the frames (B, 2, 3) of perfectly aligned portraits: FFHQ's crop from the true landmarks, picture [-1, 1] to world."""
    from pipeline.align import frame_from_landmarks

    return frame_from_landmarks(landmarks(p))


def render_aligned(p: Parameters, *, size: int = 64, jitter: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
    """Render aligned portraits (B, 3, size, size); `jitter` > 0 disturbs the frame as landmark errors of that share of the crop would."""
    return render(p, jittered_frame(p, jitter=jitter, generator=generator), size=size)


def jittered_frame(p: Parameters, *, jitter: float, generator: torch.Generator | None = None) -> Tensor:
    """Return the frames (B, 2, 3) of `render_aligned`."""
    frame = aligned_frame(p)
    if jitter > 0:
        noise = torch.randn(len(p), 2, 3, generator=generator).to(frame) * jitter
        scale = frame[:, :, :2].abs().amax((1, 2))[:, None, None]
        frame = frame + noise * scale
    return frame


def _render_chunk(p: Parameters, frame_B23: Tensor, size: int) -> Tensor:
    s = scene(p, frame_B23, size)
    canvas = backdrop.background(s)
    canvas = backdrop.back_hair(s, canvas)
    canvas = backdrop.body(s, canvas)
    canvas = backdrop.ears(s, canvas)
    canvas, outline = face.head(s, canvas)
    canvas = face.nose(s, canvas)
    canvas = adornment.beard(s, canvas, outline)
    canvas = face.mouth(s, canvas)
    canvas = face.eyes(s, canvas)
    canvas = adornment.front_hair(s, canvas)
    canvas = adornment.hat(s, canvas)
    canvas = adornment.glasses(s, canvas)
    warm = torch.tensor([0.05, 0.0, -0.06], device=canvas.device)[None, :, None, None] * p["warm_light"].unsqueeze(1)
    canvas = (canvas * (1 + warm)).clamp(0, 1)
    return apply_styles(canvas, p.style) * 2 - 1
