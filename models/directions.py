"""Directions in latent space along which one thing changes: InterFaceGAN (labels), GANSpace (variance), SeFa (the weights themselves).

Shape legend: N samples, L latent slots, D style width, K directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.stylegan2 import Generator

Labels = Callable[[Tensor], Tensor]
"""Takes pictures (B, 3, H, W) in [-1, 1]; gives a score per picture, (B,), higher where the thing shows."""
BATCH = 100
RIDGE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """Unit vectors (K, D) in W with the slots that they act on; None is all of them."""

    vectors_KD: Tensor
    slots: Sequence[int] | None = None

    def moved(self, latents_BLD: Tensor, amount: float, *, which: int = 0) -> Tensor:
        """Return latents moved along one direction."""
        step_D = amount * self.vectors_KD[which].to(latents_BLD)
        if self.slots is None:
            return latents_BLD + step_D
        mask_L = torch.zeros(latents_BLD.shape[1], 1, device=latents_BLD.device, dtype=latents_BLD.dtype)
        mask_L[list(self.slots)] = 1
        return latents_BLD + mask_L * step_D


@torch.no_grad()
def interfacegan(generator: Generator, labels: Labels, *, samples: int = 4000, share: float = 0.2, seed: int = 0) -> Directions:
    """Return the normal of the plane in W between pictures that show a thing most and least, (1, D) (InterFaceGAN section 2.2).

    `share` of `samples` random latents at either end are told apart. Differs: by ridge regression to +1 and -1, whose solution is closed
    and the same on every machine, in place of a linear SVM.
    """
    w_ND = _latents(generator, samples, seed)
    score_N = torch.cat([labels(generator.synthesis(generator.repeat(part)).clamp(-1, 1)) for part in w_ND.split(BATCH)])
    ends = max(1, round(share * samples))
    order = score_N.argsort()
    chosen = torch.cat([order[:ends], order[-ends:]])
    target_N = torch.cat([-torch.ones(ends), torch.ones(ends)]).to(w_ND)
    x_ND = w_ND[chosen] - w_ND[chosen].mean(0)
    gram = (x_ND.T @ x_ND).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    normal_D = torch.linalg.solve(gram, (x_ND.T @ target_N).double()).to(w_ND)
    return Directions(vectors_KD=F.normalize(normal_D, dim=0)[None])


@torch.no_grad()
def ganspace(generator: Generator, *, n: int = 20, samples: int = 10_000, seed: int = 0) -> Directions:
    """Return the first principal components of W, (n, D), the strongest first (GANSpace section 2.1)."""
    w_ND = _latents(generator, samples, seed)
    _, _, vectors = torch.linalg.svd((w_ND - w_ND.mean(0)).double(), full_matrices=False)
    return Directions(vectors_KD=_signed(vectors[:n].to(w_ND)))


@torch.no_grad()
def sefa(generator: Generator, *, n: int = 20, slots: Sequence[int] | None = None) -> Directions:
    """Return the directions that the modulations of `slots` amplify most, (n, D): eigenvectors of A^T A (SeFa eq. 4)."""
    layers = [conv for conv in generator.convolutions() if slots is None or conv.layer.latent in set(slots)]
    rows = torch.cat([F.normalize(conv.modulation.weight, dim=1) for conv in layers]).double()
    _, _, vectors = torch.linalg.svd(rows, full_matrices=False)
    return Directions(vectors_KD=_signed(vectors[:n].to(generator.input.input)), slots=slots)


def _latents(generator: Generator, n: int, seed: int) -> Tensor:
    z_ND = torch.randn(n, generator.style_dim, generator=torch.Generator().manual_seed(seed))
    weight = generator.input.input
    return torch.cat([generator.mapping(part.to(weight)) for part in z_ND.split(4096)])


def _signed(vectors_KD: Tensor) -> Tensor:
    """Fix the sign, which a decomposition leaves open: the largest component is positive."""
    largest = vectors_KD.gather(1, vectors_KD.abs().argmax(1, keepdim=True))
    return vectors_KD * largest.sign()
