"""Layers that generator, discriminator and encoders share: equalised maps, pixel norm and the resampling filter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def blur_kernel() -> Tensor:
    """Return the outer product of [1, 3, 3, 1], normalised to sum 1 (4 x 4)."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(taps, taps)


EPSILON = 1e-8


class EqualLinear(nn.Module):
    """Apply a linear map; its stored weight is scaled by `lr_mul / sqrt(n_in)`, its bias by `lr_mul`.

    `activate` adds a leaky ReLU (slope 0.2) times sqrt(2).
    """

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


class EqualConv(nn.Module):
    """Convolve with a stored weight that is scaled by `1 / sqrt(n_in * k * k)`, without bias."""

    def __init__(self, n_in: int, n_out: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.scale = 1 / math.sqrt(n_in * kernel**2)
        self.stride = stride
        self.padding = padding

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H', W')."""
        return F.conv2d(x_BCHW, self.weight * self.scale, stride=self.stride, padding=self.padding)


class PixelNorm(nn.Module):
    """Divide every vector by its root mean square."""

    def forward(self, z_BD: Tensor) -> Tensor:
        """Normalise (B, D) along D."""
        return z_BD * (z_BD.square().mean(dim=1, keepdim=True) + EPSILON).rsqrt()


class Resample(nn.Module):
    """Filter with the [1, 3, 3, 1] kernel; `gain` is the sum of its taps (4 when the picture was spread by zeros, 1 otherwise)."""

    kernel: Tensor

    def __init__(self, *, gain: float) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel() * gain)

    def forward(self, x_BCHW: Tensor, *, pad: int) -> Tensor:
        """Blur; H and W grow by `2 * pad - 3`."""
        kernel = self.kernel.to(x_BCHW.dtype).expand(x_BCHW.shape[1], 1, 4, 4)
        return F.conv2d(x_BCHW, kernel, padding=pad, groups=x_BCHW.shape[1])

    def enlarge(self, x_BCHW: Tensor) -> Tensor:
        """Enlarge twice: zero insertion and blur in one transposed convolution (the kernel is symmetric)."""
        kernel = self.kernel.to(x_BCHW.dtype).expand(x_BCHW.shape[1], 1, 4, 4)
        return F.conv_transpose2d(x_BCHW, kernel, stride=2, padding=1, groups=x_BCHW.shape[1])


PictureSize = int | Sequence[int]
"""Side of a square picture in pixels, or height and width."""


def sides(size: PictureSize) -> tuple[int, int]:
    """Return height and width. Raises ValueError unless there are one or two positive numbers."""
    found = (size, size) if isinstance(size, int) else tuple(size)
    if len(found) != 2 or min(found) < 1:
        raise ValueError(f"picture size: expected a side, or height and width in pixels, found {size}")
    return int(found[0]), int(found[1])


def longest(size: PictureSize) -> int:
    """Return the longer side, which says how often a network has to halve its feature map."""
    return max(sides(size))


def check_picture(name: str, image_BCHW: Tensor, size: PictureSize, *, channels: int = 3) -> None:
    """Raise ValueError unless the pictures have `size` and that many channels."""
    height, width = sides(size)
    if image_BCHW.ndim != 4 or tuple(image_BCHW.shape[1:]) != (channels, height, width):
        raise ValueError(f"{name}: expected images (B, {channels}, {height}, {width}), found {tuple(image_BCHW.shape)}")
