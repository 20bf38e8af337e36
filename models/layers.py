"""Layers that generator, discriminator and encoders share: equalised linear maps and the resampling filter."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def blur_kernel() -> Tensor:
    """Return the outer product of [1, 3, 3, 1], normalised to sum 1 (4 x 4)."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(taps, taps)


class EqualLinear(nn.Module):
    """Apply a linear map whose stored weight is scaled by `lr_mul / sqrt(n_in)` and bias by `lr_mul`; `activate` adds leaky ReLU * sqrt(2)."""

    def __init__(self, n_in: int, n_out: int, *, bias_init: float = 0.0, lr_mul: float = 1.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr_mul)
        self.bias = nn.Parameter(torch.full((n_out,), bias_init / lr_mul))
        self.scale = lr_mul / math.sqrt(n_in)
        self.lr_mul = lr_mul
        self.activate = activate

    def forward(self, x_BC: Tensor) -> Tensor:
        """Map (B, n_in) to (B, n_out)."""
        y = F.linear(x_BC, self.weight * self.scale, self.bias * self.lr_mul)
        return F.leaky_relu(y, 0.2) * math.sqrt(2) if self.activate else y
