"""Losses between pictures, pixel by pixel or by a distance that is handed in.

Shape legend: B batch, C channels, H/W rows/columns.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from models.losses.shapes import check_same_shape

PictureDistance = Callable[[Tensor, Tensor], Tensor]
"""Takes two batches (B, C, H, W); gives one distance, or one per picture."""


def l2_loss(made_BCHW: Tensor, wanted_BCHW: Tensor) -> Tensor:
    """Return the mean squared difference (HyperStyle eq. 7, HyperEditor eq. 8, CLIPInverter eq. 7).

    Differs: the papers print a norm, the released code takes the mean of the squares, as here.
    """
    check_same_shape("l2_loss", made_BCHW, wanted_BCHW)
    return F.mse_loss(made_BCHW, wanted_BCHW)


def smooth_l1_loss(made_BCHW: Tensor, wanted_BCHW: Tensor, *, beta: float = 1.0) -> Tensor:
    """Return the mean of d^2 / (2 beta) where |d| < beta and |d| - beta / 2 elsewhere (GANI eq. 1, pixel term).

    GANI takes it from Fast R-CNN, where beta is 1; `beta` 0 is the mean absolute difference. Raises ValueError for a negative beta.
    """
    check_same_shape("smooth_l1_loss", made_BCHW, wanted_BCHW)
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must be 0 or more, found {beta}")
    return F.smooth_l1_loss(made_BCHW, wanted_BCHW, beta=beta)


def localisation_loss(tuned_BCHW: Tensor, original_BCHW: Tensor, *, distance: PictureDistance = l2_loss) -> Tensor:
    """Return how far a tuned generator's pictures are from the untouched generator's at the same random latents (GANI eq. 5, second term).

    Each row shows one w = f(z) of a normal z, so the latents lie in W, not W+; the rows stand for the expectation over z.
    Only `tuned_BCHW` gets a gradient. Differs: the text of the paper leaves the distance open, so it is an argument.
    """
    check_same_shape("localisation_loss", tuned_BCHW, original_BCHW)
    return distance(tuned_BCHW, original_BCHW.detach()).mean()
