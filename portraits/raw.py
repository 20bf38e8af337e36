"""Raw, unaligned pictures of the portraits world: where a camera that nobody aimed well would have put the face."""

from __future__ import annotations

import torch
from torch import Tensor

from portraits.geometry import geometry
from portraits.landmarks import apply_frame, invert_frame, landmarks
from portraits.parameters import Parameters


def random_frames(
    p: Parameters,
    *,
    generator: torch.Generator,
    eye_share: tuple[float, float] = (0.13, 0.24),
    rotation_deg: float = 30.0,
    shift: float = 0.30,
) -> Tensor:
    """Draw frames (B, 2, 3), picture [-1, 1] to world: eye distance as a share of the width, rotation and shift are random."""
    n = len(p)
    low, high = (torch.tensor(v).log() for v in eye_share)
    share = (low + (high - low) * torch.rand(n, generator=generator)).exp()
    scale = geometry(p).eye_x.flatten() / share
    angle = (torch.rand(n, generator=generator) * 2 - 1) * (rotation_deg * torch.pi / 180)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    linear = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    offset = (torch.rand(n, 2, generator=generator) * 2 - 1) * shift
    room = (1 - 0.95 / scale).clamp_min(0.06)[:, None]  # keep the face inside the picture
    offset = torch.maximum(torch.minimum(offset, room), -room)
    return torch.cat([linear, -(linear @ offset[:, :, None])], 2)


def picture_landmarks(p: Parameters, frame_B23: Tensor) -> Tensor:
    """Return the true landmarks (B, 9, 2) in picture coordinates [-1, 1]."""
    return apply_frame(landmarks(p), invert_frame(frame_B23))
