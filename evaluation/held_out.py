"""Held-out raw portraits, brought to aligned pictures by the pipeline's own decoding, landmarks and crop.

The people are drawn from seeds that no training uses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.pack import Pack
from pipeline.align import Aligner, ImageHWC
from pipeline.images import decode_image
from pipeline.invert import to_tensor
from pipeline.sample import SampleFailure
from portraits.dataset import raw_samples
from training.kinds.landmarks import error

HELD_OUT_SEED = 3_000_000
BATCH = 50


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Raw pictures with their truth, and what the pipeline made of them.

    `aligned_BCHW` in [-1, 1], on the pack's device, holds the rows of `found`.
    """

    truth: list[dict[str, dict[str, bool]]]
    aligned_BCHW: Tensor
    found: list[int]
    landmark_errors: Tensor  # mean distance over the eye distance, one per picture

    def has(self, name: str) -> Tensor:
        """Return whether an attribute holds, by truth, for each aligned picture."""
        return torch.tensor([bool(self.truth[i]["attributes"].get(name, False)) for i in self.found])


def held_out(pack: Pack, n: int, *, seed: int = HELD_OUT_SEED, style: str = "photo") -> HeldOut:
    """Make `n` raw portraits and align them as the pipeline does."""
    samples = list(raw_samples(n, seed=seed, style=style))
    truth = [json.loads(sample.members["json"]) for sample in samples]
    images = [decode_image(sample.members["jpg"]) for sample in samples]
    locator = pack.landmarks()
    aligner = Aligner(locator, size=pack.size)
    aligned: list[ImageHWC | SampleFailure] = []
    located: list[Tensor] = []
    for i in range(0, n, BATCH):
        aligned += aligner.align_all(images[i : i + BATCH])
        located.append(locator.locate(images[i : i + BATCH])[0])
    known = torch.tensor([[t["landmarks"][name] for name in locator.names] for t in truth])
    found = [i for i, picture in enumerate(aligned) if isinstance(picture, np.ndarray)]
    pictures = to_tensor([picture for picture in aligned if isinstance(picture, np.ndarray)], device=pack.device)
    return HeldOut(truth=truth, aligned_BCHW=pictures, found=found, landmark_errors=error(torch.cat(located), known))
