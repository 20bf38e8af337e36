"""Losses in CLIP's embedding space.

Shape legend: B batch, E embedding.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6


def directional_clip_loss(edited_BE: Tensor, source_BE: Tensor, direction_BE: Tensor) -> Tensor:
    """Return 1 - cosine between picture direction and text direction of each picture, (B,); the loss is its mean (HyperEditor eq. 4).

    `edited_BE` and `source_BE` are raw picture embeddings, normalised before their difference, which is normalised again;
    `direction_BE` (B or 1 rows) is the raw text embedding of the target minus that of the source; 0 gives 1 without a gradient. Also
    CLIPInverter eq. 11. Differs from HyperEditor's release: an epsilon, as in CLIPInverter's, keeps edited == source finite.
    """
    delta = F.normalize(edited_BE, dim=1) - F.normalize(source_BE, dim=1)
    delta = delta / (delta.norm(dim=1, keepdim=True) + EPSILON)
    return 1 - (delta * F.normalize(direction_BE, dim=1)).sum(1)


def global_clip_loss(edited_BE: Tensor, target_BE: Tensor) -> Tensor:
    """Return 1 - cosine between each edited picture and the target text, (B,); the loss is its mean (HyperEditor eq. 3)."""
    return 1 - F.cosine_similarity(edited_BE, target_BE.expand_as(edited_BE), dim=1)
