"""What a portrait is painted on: one batch of pixels in world coordinates, with the geometry and colours that all parts share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portraits import palette
from portraits.geometry import Geometry, geometry
from portraits.parameters import STYLE_NAMES, Parameters


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Pixels x, y (B, H, W) in world units, pixel size `px` (B, 1, 1), parameters, geometry and base colours (B, 3, 1, 1)."""

    x: Tensor
    y: Tensor
    px: Tensor
    p: Parameters
    g: Geometry
    zombie: Tensor  # 1 where the style is zombie, (B, 1, 1)
    skin: Tensor
    hair: Tensor
    light: Tensor  # horizontal position of the light in [-1, 1]


def scene(p: Parameters, frame_B23: Tensor, size: int) -> Scene:
    """Place a size x size picture: `frame_B23` maps picture coordinates in [-1, 1] to world units."""
    axis = (torch.arange(size, dtype=torch.float32, device=frame_B23.device) + 0.5) * (2 / size) - 1
    row, column = axis[None, :, None], axis[None, None, :]
    a = frame_B23[:, :, :, None, None]
    x = a[:, 0, 0] * column + a[:, 0, 1] * row + a[:, 0, 2]
    y = a[:, 1, 0] * column + a[:, 1, 1] * row + a[:, 1, 2]
    scale = torch.linalg.det(frame_B23[:, :, :2]).abs().sqrt()[:, None, None]
    zombie = (p.style == STYLE_NAMES.index("zombie")).float()[:, None, None]
    undead = torch.tensor([0.44, 0.60, 0.36], device=x.device)[None, :, None, None]
    skin = palette.skin(p)
    skin = torch.lerp(skin, undead * (0.75 + 0.35 * skin.mean(1, keepdim=True)), 0.9 * zombie.unsqueeze(1))
    hair = palette.hair(p)
    hair = torch.lerp(hair, hair.mean(1, keepdim=True) * 0.7 + torch.tensor([0.0, 0.05, 0.0], device=x.device)[None, :, None, None],
                      0.6 * zombie.unsqueeze(1))  # fmt: skip
    return Scene(x=x, y=y, px=scale * (2 / size), p=p, g=geometry(p), zombie=zombie, skin=skin, hair=hair, light=p["light"])
