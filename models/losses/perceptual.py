"""Losses between features of frozen networks: LPIPS, identity, MoCo, face parsing.

Shape legend: B batch, C channels, H/W rows/columns, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.losses.pixels import PictureDistance
from models.losses.shapes import check_same_shape

EPSILON = 1e-6  # keeps the gradient of a feature vector of zeros bounded


def lpips_loss(made_BCHW: Tensor, wanted_BCHW: Tensor, *, network: PictureDistance) -> Tensor:
    """Return the mean LPIPS distance of RGB pictures in [-1, 1] (HyperStyle eq. 7, CLIPInverter eq. 8, GANI eq. 1).

    `network` maps the two batches to distances (B, 1, 1, 1), as `lpips.LPIPS` does. Raises ValueError when it gives another number of them.
    """
    check_same_shape("lpips_loss", made_BCHW, wanted_BCHW)
    distances = network(made_BCHW, wanted_BCHW)
    if distances.numel() != len(made_BCHW):
        raise ValueError(f"lpips_loss: expected one distance for each of {len(made_BCHW)} pictures, found shape {tuple(distances.shape)}")
    return distances.mean()


def identity_loss(made_BE: Tensor, wanted_BE: Tensor) -> Tensor:
    """Return the mean of 1 - cosine of two people's L2-normalised embeddings (HyperEditor eq. 7, CLIPInverter eq. 9, HyperStyle eq. 7)."""
    check_same_shape("identity_loss", made_BE, wanted_BE)
    return (1 - (made_BE * wanted_BE).sum(1)).mean()


def moco_loss(made_BE: Tensor, wanted_BE: Tensor) -> Tensor:
    """Return the mean of 1 - cosine of raw MoCo features, the similarity loss where no faces are (HyperStyle eq. 7, HyperEditor eq. 7).

    Features may keep the network's last two axes, (B, E, 1, 1). Differs: the release squeezes those axes and thereby loses a batch of one.
    """
    return cosine_distance("moco_loss", made_BE, wanted_BE).mean()


def parsing_loss(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the sum over levels of the mean 1 - cosine of a face parser's feature maps (GANI eq. 1, last term).

    Each level is (B, C, H, W) and compared as one vector per picture; GANI uses the 5 of a U-Net's contracting path. Raises ValueError
    when the levels do not pair up.
    """
    if not made or len(made) != len(wanted):
        raise ValueError(f"parsing_loss: expected equally many levels, at least one, found {len(made)} and {len(wanted)}")
    pairs = enumerate(zip(made, wanted, strict=True))
    return torch.stack([cosine_distance(f"parsing_loss, level {level}", a, b).mean() for level, (a, b) in pairs]).sum()


def cosine_distance(name: str, made: Tensor, wanted: Tensor) -> Tensor:
    """Return 1 - cosine of each pair of rows, all further axes flattened, (B,); 1 where a row is zero. `name` is for the error."""
    check_same_shape(name, made, wanted)
    a, b = F.normalize(made.flatten(1), dim=1, eps=EPSILON), F.normalize(wanted.flatten(1), dim=1, eps=EPSILON)
    return 1 - (a * b).sum(1)
