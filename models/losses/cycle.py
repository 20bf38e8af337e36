"""CLIPInverter's two passes: the edit of a picture, and the way back.

The first pass turns the original into the edited picture by the text change `change`; the second starts from the edited picture, whose
own gradient is cut, asks for the change back, and should return to the original.

Shape legend: B batch, C channels, H/W rows/columns, L slots, D width of a latent, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from models.losses.clip import directional_clip_loss
from models.losses.latents import mean_latent_loss
from models.losses.perceptual import identity_loss, lpips_loss
from models.losses.pixels import PictureDistance, l2_loss

CLIPINVERTER_WEIGHTS: Mapping[str, float] = MappingProxyType({"l2": 1.0, "lpips": 0.6, "identity": 0.1, "mean_latent": 0.005, "clip": 1.0})
"""Weights of the first training stage, lambda 1 to 5 of CLIPInverter, section 4."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A batch of pictures as the losses see it: RGB in [-1, 1], identity embeddings of unit length, raw CLIP embeddings."""

    image_BCHW: Tensor
    identity_BE: Tensor
    clip_BE: Tensor


@dataclass(frozen=True, kw_only=True)
class LatentPair:
    """The W+ codes that a pass arrived at, and the generator's mean latent that they should stay near."""

    w_BLD: Tensor
    mean_LD: Tensor


def manipulation_terms(
    edited: View, original: View, *, latents: LatentPair, change_BE: Tensor, network: PictureDistance
) -> dict[str, Tensor]:
    """Return the unweighted terms of the first pass by name (CLIPInverter eq. 7 to 11).

    `change_BE` (B or 1 rows) is the raw text embedding of the target minus that of the original's caption, exactly 0 where a picture was
    given its own caption: nothing is asked for there, so the CLIP term leaves it out, as the release does. `network` as in `lpips_loss`.
    """
    terms = _kept_terms(edited, original, latents=latents, network=network)
    return {**terms, "clip": _asked_change_loss(edited.clip_BE, original.clip_BE, change_BE)}


def cycle_terms(
    returned: View, original: View, *, edited: View, latents: LatentPair, change_BE: Tensor, network: PictureDistance
) -> dict[str, Tensor]:
    """Return the unweighted terms of the way back by name (CLIPInverter eq. 13, cyclic term); `change_BE` is that of the first pass.

    Pictures and identities are compared with the original. Differs: the paper only puts the returned picture in the place of the edited
    one, which would ask CLIP for a change away from the original; here, as in the release, it starts at the edited picture and is reversed.
    """
    terms = _kept_terms(returned, original, latents=latents, network=network)
    return {**terms, "clip": _asked_change_loss(returned.clip_BE, edited.clip_BE.detach(), -change_BE)}


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the sum of the terms times their weights (CLIPInverter eq. 12). Raises ValueError unless both name the same terms."""
    if not terms or terms.keys() != weights.keys():
        raise ValueError(f"weighted_sum: expected a weight for each term, found terms {sorted(terms)} and weights {sorted(weights)}")
    return torch.stack([term * weights[name] for name, term in terms.items()]).sum()


def cycle_loss(
    manipulation: Mapping[str, Tensor],
    cyclic: Mapping[str, Tensor],
    *,
    weights: Mapping[str, float] = CLIPINVERTER_WEIGHTS,
    cycle: float = 1.0,
) -> Tensor:
    """Return the total loss of both passes, `cycle` being lambda 6 (CLIPInverter eq. 13).

    The second pass gives no gradient to the first, so each may also be weighted and sent backwards by itself, to hold one graph at a time.
    """
    return weighted_sum(manipulation, weights) + cycle * weighted_sum(cyclic, weights)


def _kept_terms(made: View, original: View, *, latents: LatentPair, network: PictureDistance) -> dict[str, Tensor]:
    """Return what both passes compare with the original, and the distance of their latents from the mean."""
    return {
        "l2": l2_loss(made.image_BCHW, original.image_BCHW),
        "lpips": lpips_loss(made.image_BCHW, original.image_BCHW, network=network),
        "identity": identity_loss(made.identity_BE, original.identity_BE),
        "mean_latent": mean_latent_loss(latents.w_BLD, latents.mean_LD),
    }


def _asked_change_loss(made_BE: Tensor, start_BE: Tensor, change_BE: Tensor) -> Tensor:
    """Return the directional CLIP loss, a mean over the batch to which pictures without a change add nothing."""
    asked = change_BE.detach().abs().sum(1) > 0
    return (directional_clip_loss(made_BE, start_BE, change_BE) * asked).mean()
