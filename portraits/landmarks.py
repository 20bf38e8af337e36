"""The nine known landmarks of a portrait, in world units or through a frame in pixels. Left and right are as seen in the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from portraits.geometry import geometry, rows
from portraits.parameters import Parameters

LANDMARK_NAMES: tuple[str, ...] = (
    "left_eye", "right_eye", "nose_tip", "mouth_left", "mouth_right", "chin", "nose_left", "nose_right", "mouth_centre",
)  # fmt: skip


def landmarks(p: Parameters) -> Tensor:
    """Return the landmarks in world units, (B, 9, 2) as x, y."""
    g = geometry(p)
    corner_y = g.mouth_y + g.mouth_bend * 0.65
    x = rows(g.eye_shift - g.eye_x, g.eye_shift + g.eye_x, g.nose_x, g.mouth_x - g.mouth_width, g.mouth_x + g.mouth_width,
             g.mouth_x * 0.6, g.nose_x - g.nose_width, g.nose_x + g.nose_width, g.mouth_x)  # fmt: skip
    y = rows(g.eye_y, g.eye_y, g.nose_y, corner_y, corner_y, g.chin, g.nose_y, g.nose_y, g.mouth_y - g.mouth_bend * 0.35)
    return torch.stack([x, y], 2)


def apply_frame(points_BK2: Tensor, frame_B23: Tensor) -> Tensor:
    """Map points through affine frames (B, 2, 3): result = A point + b."""
    return torch.einsum("bij,bkj->bki", frame_B23[:, :, :2], points_BK2) + frame_B23[:, None, :, 2]


def invert_frame(frame_B23: Tensor) -> Tensor:
    """Return the inverse affine frames (B, 2, 3)."""
    a_inverse = torch.linalg.inv(frame_B23[:, :, :2])
    return torch.cat([a_inverse, -a_inverse @ frame_B23[:, :, 2:]], 2)


def compose_frames(outer_B23: Tensor, inner_B23: Tensor) -> Tensor:
    """Return the frame that applies `inner` first, then `outer`."""
    a = outer_B23[:, :, :2]
    return torch.cat([a @ inner_B23[:, :, :2], a @ inner_B23[:, :, 2:] + outer_B23[:, :, 2:]], 2)
