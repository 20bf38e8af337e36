"""Random windows of pictures, which CLIP is trained and asked through: what fools it at one place and size has to fool it at others.

Differs from HyperEditor, which shows CLIP the whole picture: a CLIP of 3 million parameters is satisfied by texture that only fits its
grid, one of 150 million less easily (StyleCLIP and StyleGAN-NADA leave crops out too; CLIP-guided diffusion and VQGAN-CLIP do as here).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def windows(count: int, *, zoom: float, whole: float, generator: torch.Generator) -> Tensor:
    """Draw windows (count, 3): side in (0, 1] of the picture's, x and y of the centre in [-1, 1].

    Up to the share `zoom` of the side is cut away; the share `whole` of the windows shows the whole picture. Raises ValueError for
    shares outside [0, 1], or a zoom of 1.
    """
    if not 0 <= zoom < 1 or not 0 <= whole <= 1:
        raise ValueError(f"windows: zoom {zoom}, whole {whole}: expected shares, the zoom below 1")
    draw = torch.rand(count, 4, generator=generator)
    cut = draw[:, 0] * zoom * (draw[:, 1] >= whole)
    return torch.stack([1 - cut, (draw[:, 2] * 2 - 1) * cut, (draw[:, 3] * 2 - 1) * cut], 1)


def seen_through(image_BCHW: Tensor, window_B3: Tensor) -> Tensor:
    """Return what each window shows of its picture, enlarged to the picture's size; differentiable."""
    side, x, y = window_B3.to(image_BCHW).unbind(1)
    nothing = torch.zeros_like(side)
    theta = torch.stack([torch.stack([side, nothing, x], 1), torch.stack([nothing, side, y], 1)], 1)
    grid = F.affine_grid(theta, list(image_BCHW.shape), align_corners=False)
    return F.grid_sample(image_BCHW, grid, padding_mode="border", align_corners=False)
