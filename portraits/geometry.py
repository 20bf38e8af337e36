"""Where the parts of a face are, in world units: origin between skull and chin, y downwards, an average face about 1.6 high.

Every value is (B, 1, 1). The renderer draws from these numbers and the landmarks are read off them, so the two cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portraits.parameters import Parameters


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Positions and sizes of one batch of faces."""

    head_width: Tensor
    head_top: Tensor
    chin: Tensor
    jaw_power: Tensor
    eye_x: Tensor  # half of the distance between the eyes
    eye_y: Tensor
    eye_shift: Tensor  # parallax of the eyes under yaw
    eye_width: Tensor
    eye_height: Tensor
    eye_tilt: Tensor
    brow_y: Tensor
    brow_slant: Tensor  # > 0: inner ends down (angry), < 0: inner ends up (sad)
    nose_x: Tensor
    nose_y: Tensor
    nose_width: Tensor
    mouth_x: Tensor
    mouth_y: Tensor
    mouth_width: Tensor
    mouth_bend: Tensor  # > 0: corners down
    mouth_open: Tensor
    lip: Tensor


def geometry(p: Parameters) -> Geometry:
    """Derive the positions of all parts from the parameters."""
    smile, sad, surprised, angry = p["smile"], p["sad"], p["surprised"], p["angry"]
    yaw = p["yaw"] * 0.75
    chin = 0.77 + 0.07 * p["face_length"] + 0.05 * p["chin_length"] + 0.04 * surprised
    eye_y = -0.08 - 0.015 * p["face_length"]
    nose_y = 0.17 + 0.05 * p["nose_length"]
    brow_y = eye_y - 0.165 - 0.03 * p["brow_height"] - 0.075 * surprised + 0.045 * angry - 0.015 * sad
    mouth_width = (0.205 + 0.045 * p["mouth_width"]) * (1 + 0.30 * smile - 0.40 * surprised - 0.1 * sad - 0.05 * angry)
    return Geometry(
        head_width=0.60 + 0.06 * p["face_width"] + 0.03 * p["double_chin"],
        head_top=0.80 + 0.04 * p["face_length"],
        chin=chin,
        jaw_power=2.15 + 0.4 * p["jaw_square"] + 0.15 * p["double_chin"],
        eye_x=0.255 + 0.035 * p["eye_spacing"],
        eye_y=eye_y,
        eye_shift=0.075 * yaw,
        eye_width=0.125 + 0.022 * p["eye_size"],
        eye_height=(0.066 + 0.014 * p["eye_size"]) * (1 + 0.45 * surprised - 0.25 * angry - 0.15 * smile - 0.12 * sad),
        eye_tilt=0.10 * p["eye_tilt"],
        brow_y=brow_y,
        brow_slant=0.34 * angry - 0.34 * sad,
        nose_x=0.135 * yaw,
        nose_y=nose_y,
        nose_width=0.085 + 0.022 * p["nose_width"],
        mouth_x=0.085 * yaw,
        mouth_y=0.40 + 0.025 * p["nose_length"] + 0.02 * p["face_length"] + 0.03 * surprised,
        mouth_width=mouth_width,
        mouth_bend=-0.115 * smile + 0.095 * sad + 0.03 * angry,
        mouth_open=0.075 * smile + 0.20 * surprised,
        lip=(0.040 + 0.014 * p["lip_fullness"]) * (1 - 0.25 * angry - 0.15 * smile),
    )


def rows(*values: Tensor) -> Tensor:
    """Stack (B, 1, 1) values into (B, len(values))."""
    return torch.cat([v.flatten(1) for v in values], 1)
