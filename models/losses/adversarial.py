"""StyleGAN2's adversarial losses: the non-saturating logistic pair and the R1 penalty.

e4e's discriminator of latents uses the same three. Shape legend: B batch, C channels, H/W rows/columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def generator_adversarial_loss(fake_logits: Tensor) -> Tensor:
    """Return the mean of -log sigmoid(D(fake)), the non-saturating loss (StyleGAN2; Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits).mean()


def discriminator_adversarial_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the mean of -log sigmoid(D(real)) plus that of -log(1 - sigmoid(D(fake))) (StyleGAN2; Goodfellow et al. 2014)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, real_BCHW: Tensor) -> Tensor:
    """Return the mean squared norm of the logits' gradient by the real pictures, differentiable again (StyleGAN2; Mescheder et al. 2018).

    `real_BCHW` must require gradients before the discriminator sees it, or ValueError. The factor gamma / 2 is the caller's, and with it
    the interval where the penalty is taken every few steps only (StyleGAN2: gamma 10, every 16 steps, so times 80).
    """
    if not real_BCHW.requires_grad:
        raise ValueError("r1_penalty: the pictures must require gradients before the discriminator sees them, found requires_grad=False")
    (gradient_BCHW,) = torch.autograd.grad(real_logits.sum(), real_BCHW, create_graph=True)
    return gradient_BCHW.square().flatten(1).sum(1).mean()
