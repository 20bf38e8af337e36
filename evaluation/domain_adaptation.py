"""Offsets found on one generator, applied to a generator fine-tuned from it to another style (HyperStyle Figure 7).

Shape legend: N pictures, C channels, H/W rows/columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.inversion_suite import BATCH, Inverted, Judge, Numbers
from models.pack import Pack, PackError


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapted:
    """The fine-tuned generator's pictures of a method's latents, (N, 3, H, W), without and with the offsets, and their measures."""

    plain_NCHW: Tensor
    tuned_NCHW: Tensor
    plain: Numbers
    tuned: Numbers

    def pictures(self) -> dict[str, Tensor]:
        """Return both columns of pictures by name."""
        return {"without": self.plain_NCHW, "with": self.tuned_NCHW}

    def numbers(self) -> dict[str, Numbers]:
        """Return both measures by name."""
        return {"without": self.plain, "with": self.tuned}


def check_adapted(pack: Pack, adapted: Pack) -> None:
    """Raise PackError where the fine-tuned generator cannot take offsets of the pack's."""
    ours, theirs = pack.generator(), adapted.generator()
    if list(ours.layers) != list(theirs.layers) or ours.style_dim != theirs.style_dim:
        raise PackError(
            f"--adapted {adapted.path}: its generator has other layers than that of {pack.path}; expected one fine-tuned from it"
        )


@torch.no_grad()
def adapt(judge: Judge, inverted: Inverted, wanted_NCHW: Tensor, *, adapted: Pack, text: str, strength: float = 1.0) -> Adapted:
    """Return what the fine-tuned generator makes of a method's states; the style's score is CLIP's cosine of picture and text.

    `strength` scales the offsets: they were found on another generator, and bring back its look together with the person.
    """
    generator, clip = adapted.generator(), judge.pack.clip()
    words = F.normalize(clip.embed_texts([text]), dim=1)[0]
    plain = torch.cat([generator(replace(state, offsets={})) for state in inverted.states]).clamp(-1, 1)
    tuned = torch.cat([generator(state.scaled(strength)) for state in inverted.states]).clamp(-1, 1)
    identity = judge.pack.identity()
    who = _batched(identity, wanted_NCHW)

    def numbers(image_NCHW: Tensor) -> Numbers:
        same = (_batched(identity, image_NCHW) * who).sum(1)
        style = F.normalize(_batched(clip.embed_images, image_NCHW), dim=1) @ words
        return {"identity": float(same.mean()), "identity_se": float(same.std() / len(same) ** 0.5), "style": float(style.mean())}

    return Adapted(plain_NCHW=plain, tuned_NCHW=tuned, plain=numbers(plain), tuned=numbers(tuned))


def _batched(network: Callable[[Tensor], Tensor], image_NCHW: Tensor) -> Tensor:
    return torch.cat([network(part) for part in image_NCHW.split(BATCH)])
