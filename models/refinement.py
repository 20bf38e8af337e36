"""Refinement blocks: from a feature map to the weight offset of one generator layer, in the released key layouts of both hypernetworks.

Shape legend: B batch, C channels, H/W rows/columns, F features, O/I output/input channels of a generator convolution, k kernel width of
an offset. Source: HyperStyle section 3.3 and appendix (plain, shared and separable blocks), HyperEditor eq. 1 (separable heads).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import EqualLinear
from models.state import AnyOffset, FactorisedOffset
from models.stylegan2 import Layer

FIRST_OFFSET_GAIN = 0.1  # small first offsets: training starts from the inversion instead of from noise
SHARED_STD = 0.025


class SeparableKernel(nn.Module):
    """Make an offset (B, O, I, k, k) from features: an outer product per kernel position, then a linear map along I and one along O.

    With no activation between them the two last maps act on the factors, so `offset = b a^T + c d^T + e 1^T` per position, exactly:
    vectors of length I and O instead of two matrix products per sample. `plain` is the same by the definition.
    """

    def __init__(self, features: int, layer: Layer, *, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.make_kernel_in = nn.Linear(features, layer.in_channels * kernel_size**2)
        self.make_kernel_out = nn.Linear(features, layer.out_channels * kernel_size**2)
        self.kernel_linear_in = nn.Linear(layer.in_channels, layer.in_channels)
        self.kernel_linear_out = nn.Linear(layer.out_channels, layer.out_channels)
        with torch.no_grad():
            self.kernel_linear_out.weight.mul_(FIRST_OFFSET_GAIN)
            self.kernel_linear_in.bias.zero_()
            self.kernel_linear_out.bias.zero_()

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return the offset (B, O, I, k, k)."""
        a, b, constant = self._parts(features_BF)
        return torch.einsum("byxo,byxi->boiyx", b, a) + constant[:, :, None, None]

    def factors(self, features_BF: Tensor) -> AnyOffset:
        """Return the same offset without multiplying it out, if its kernel size is 1."""
        if self.kernel_size > 1:
            return self.forward(features_BF)
        a, b, constant = self._parts(features_BF)
        return FactorisedOffset(out_BO=b[:, 0, 0].to(constant), in_BI=a[:, 0, 0].to(constant), shared_OI=constant)

    def _parts(self, features_BF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors along I (B, k, k, I) and O (B, k, k, O), and what is the same for all samples (O, I)."""
        a, b = self._factors(features_BF)
        return a @ self.kernel_linear_in.weight.T, b @ self.kernel_linear_out.weight.T, self.constant()

    def constant(self) -> Tensor:
        """Return the part (O, I) of the offset that is the same for all features and kernel positions."""
        along_in, along_out = self.kernel_linear_in, self.kernel_linear_out
        return torch.outer(along_out.weight.sum(dim=1), along_in.bias) + along_out.bias[:, None]

    def plain(self, features_BF: Tensor) -> Tensor:
        """Return the same offset by the definition, as the reference of `forward`."""
        a, b = self._factors(features_BF)
        kernel = self.kernel_linear_in(b[..., :, None] * a[..., None, :])
        kernel = self.kernel_linear_out(kernel.transpose(-1, -2))
        return kernel.permute(0, 4, 3, 1, 2)

    def _factors(self, features_BF: Tensor) -> tuple[Tensor, Tensor]:
        k = self.kernel_size
        return self.make_kernel_in(features_BF).unflatten(1, (k, k, -1)), self.make_kernel_out(features_BF).unflatten(1, (k, k, -1))


class ColourKernel(nn.Conv2d):
    """Make an offset (B, 3, I, 1, 1) of a toRGB layer by one linear map, stored as a 1x1 convolution."""

    def __init__(self, features: int, layer: Layer) -> None:
        super().__init__(features, layer.out_channels * layer.in_channels, 1)
        self.shape = (layer.out_channels, layer.in_channels, 1, 1)
        _start_small(self)

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return the offset (B, 3, I, 1, 1)."""
        out: Tensor = super().forward(features_BF[:, :, None, None])
        return out.reshape(-1, *self.shape)


class SeparableBlock(nn.Module):
    """Shrink the feature map to a vector by stride-2 convolutions and turn it into an offset by `SeparableKernel`, or `ColourKernel`."""

    def __init__(self, features: int, layer: Layer, *, inner: int, side: int, kernel_size: int) -> None:
        super().__init__()
        self.convs = shrinking(features, inner, steps=int(math.log2(side)))
        rgb = layer.kind == "rgb"
        self.output = nn.Sequential(ColourKernel(features, layer) if rgb else SeparableKernel(features, layer, kernel_size=kernel_size))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the offset of this block's layer."""
        offset: Tensor = self.output(self.convs(x_BCHW).flatten(1))
        return offset

    def factors(self, x_BCHW: Tensor) -> AnyOffset:
        """Return the same offset, factorised where it can be."""
        kernel = self.output[0]
        features_BF = self.convs(x_BCHW).flatten(1)
        return kernel.factors(features_BF) if isinstance(kernel, SeparableKernel) else self.output(features_BF)


class PlainBlock(nn.Module):
    """Shrink the feature map to 2x2, average it, and map it to every value of the offset by a 1x1 convolution.

    `kernel_size` 1 gives one value per channel pair, which HyperStyle repeats over the 3x3 kernel: (B, O, I, 1, 1) says the same.
    """

    def __init__(self, features: int, layer: Layer, *, inner: int, side: int, kernel_size: int) -> None:
        super().__init__()
        self.shape = (layer.out_channels, layer.in_channels, kernel_size, kernel_size)
        self.convs = shrinking(features, inner, steps=max(1, int(math.log2(side)) - 1))
        last = nn.Conv2d(features, math.prod(self.shape), 1)
        _start_small(last)
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), last)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the offset (B, O, I, k, k)."""
        offset: Tensor = self.output(self.convs(x_BCHW))
        return offset.reshape(-1, *self.shape)


class SharedKernel(nn.Module):
    """Make the offsets of all layers with equally many channels from one code each: the code to O rows, each row to I kernels."""

    def __init__(self, features: int, layer: Layer, *, kernel_size: int) -> None:
        super().__init__()
        self.features = features
        self.shape = (layer.out_channels, layer.in_channels, kernel_size, kernel_size)
        self.w1 = nn.Parameter(torch.randn(features, layer.in_channels * kernel_size**2) * SHARED_STD)
        self.b1 = nn.Parameter(torch.zeros(layer.in_channels * kernel_size**2))
        self.w2 = nn.Parameter(torch.randn(features, layer.out_channels * features) * SHARED_STD)
        self.b2 = nn.Parameter(torch.zeros(layer.out_channels * features))

    def forward(self, code_BF: Tensor) -> Tensor:
        """Return the offset (B, O, I, k, k)."""
        rows_BOF = (code_BF @ self.w2 + self.b2).unflatten(1, (self.shape[0], self.features))
        return (rows_BOF @ self.w1 + self.b1).reshape(-1, *self.shape)


class SharedBlock(nn.Module):
    """Shrink the feature map to a code for the `SharedKernel`, which is not part of this module: it belongs to all of these blocks."""

    def __init__(self, features: int, *, inner: int, side: int) -> None:
        super().__init__()
        self.convs = shrinking(features, inner, steps=int(math.log2(side)), first=1)
        self.linear = EqualLinear(features, features)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the code (B, F)."""
        code: Tensor = self.linear(self.convs(x_BCHW).flatten(1))
        return code


def shrinking(features: int, inner: int, *, steps: int, first: int = 0) -> nn.Sequential:
    """Return `first` convolutions with stride 1 and `steps` with stride 2, leaky ReLU after each: F -> inner ... -> F channels."""
    strides: Sequence[int] = [1] * first + [2] * steps
    widths = [features] + [inner] * (len(strides) - 1) + [features]
    layers: list[nn.Module] = []
    for n_in, n_out, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        conv = nn.Conv2d(n_in, n_out, 3, stride, 1)
        nn.init.kaiming_normal_(conv.weight, a=0.01)
        layers += [conv, nn.LeakyReLU()]
    return nn.Sequential(*layers)


@torch.no_grad()
def _start_small(conv: nn.Conv2d) -> None:
    conv.weight.mul_(FIRST_OFFSET_GAIN)
    assert conv.bias is not None
    conv.bias.zero_()
