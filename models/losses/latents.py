"""Losses that keep latents where the generator is at its best.

Shape legend: B batch, L slots (style inputs), D width of a latent.
"""

from __future__ import annotations

from torch import Tensor


def mean_latent_loss(w_BLD: Tensor, mean_LD: Tensor) -> Tensor:
    """Return the mean distance of W+ codes from the generator's mean latent, one norm over all slots (pSp, CLIPInverter eq. 10).

    `mean_LD` may also be one latent for all slots, (1, D) or (D,). Raises ValueError for other shapes.
    """
    _, slots, width = _check_latents("mean_latent_loss", w_BLD)
    if tuple(mean_LD.shape) not in {(slots, width), (1, width), (width,)}:
        expected = f"({slots}, {width}), (1, {width}) or ({width},)"
        raise ValueError(f"mean_latent_loss: expected a mean latent of shape {expected}, found {tuple(mean_LD.shape)}")
    return (w_BLD - mean_LD).flatten(1).norm(dim=1).mean()


def delta_loss(w_BLD: Tensor) -> Tensor:
    """Return the sum over slots of their mean distance from the first slot (e4e, delta regularisation).

    Differs: the release adds up only the slots of the progressive stage; the others equal the first slot, and add nothing here either.
    """
    _check_latents("delta_loss", w_BLD)
    return (w_BLD[:, 1:] - w_BLD[:, :1]).norm(dim=2).sum(1).mean()


def _check_latents(name: str, w_BLD: Tensor) -> tuple[int, int, int]:
    if w_BLD.ndim != 3:
        raise ValueError(f"{name}: expected W+ codes (batch, slots, width), found shape {tuple(w_BLD.shape)}")
    batch, slots, width = w_BLD.shape
    return batch, slots, width
