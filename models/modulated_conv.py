"""The generator's convolution: scaled per sample by a style, under weight offsets, in the form that is cheapest for them.

Shape legend: B batch, D style width, O/I output/input channels, k kernel width, H/W picture rows/columns.
Source: StyleGAN2 (modulation, demodulation); HyperStyle eq. 4-5 (offsets): `theta_hat = theta * (1 + offset)`, demodulated after the
offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import EPSILON, EqualLinear, Resample
from models.state import AnyOffset, FactorisedOffset

HEAVY_KERNELS: float = 10
"""Kernels of a sample with this many times the values of its activations cost more than a second convolution (benchmarks/factorised.py)."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Describe one convolution of the synthesis network; `index` is its output index and `latent` the slot that styles it."""

    index: int
    kind: Literal["conv", "rgb"]
    in_channels: int
    out_channels: int
    kernel: int
    latent: int
    resolution: int
    upsample: bool


def convolve(x_BIHW: Tensor, weight_OIkk: Tensor, *, up: bool) -> Tensor:
    """Convolve with one kernel for the whole batch; `up` gives 2H + 1 rows by a transposed convolution."""
    if up:
        kernels = weight_OIkk.transpose(0, 1).contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(x_BIHW, kernels, stride=2)
    return F.conv2d(x_BIHW, weight_OIkk, padding=weight_OIkk.shape[-1] // 2)


def convolve_looped(x_BIHW: Tensor, weight_BOIkk: Tensor, *, up: bool) -> Tensor:
    """Convolve every sample with its own kernel, one after the other: a third faster on a CPU than one grouped convolution."""
    return torch.cat([convolve(x, weight, up=up) for x, weight in zip(x_BIHW.split(1), weight_BOIkk.unbind(0), strict=True)])


def convolve_grouped(x_BIHW: Tensor, weight_BOIkk: Tensor, *, up: bool) -> Tensor:
    """Convolve every sample with its own kernel in one grouped convolution: one launch on a GPU."""
    batch, out, into, k, _ = weight_BOIkk.shape
    flat = x_BIHW.reshape(1, batch * into, *x_BIHW.shape[2:])
    if up:
        kernels = weight_BOIkk.transpose(1, 2).reshape(batch * into, out, k, k)
        y = F.conv_transpose2d(flat, kernels, stride=2, groups=batch)
    else:
        y = F.conv2d(flat, weight_BOIkk.reshape(batch * out, into, k, k), padding=k // 2, groups=batch)
    return y.reshape(batch, out, *y.shape[2:])


class ModulatedConv(nn.Module):
    """Convolve with weights scaled per sample by a style and, except for toRGB, demodulated.

    `halve` makes it run its convolutions in a half precision, for inference: kernels are then scaled to at most 1 / sqrt(fan-in) per output
    channel and styles to at most 1 per sample, which demodulation cancels, so that no sum overflows; styles and demodulation stay in full
    precision (StyleGAN2-ADA, appendix, scaled likewise).
    """

    half_weight: Tensor | None
    half_peak: Tensor

    def __init__(self, layer: Layer, style_dim: int) -> None:
        super().__init__()
        self.layer = layer
        self.demodulate = layer.kind == "conv"
        shape = (1, layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
        self.weight = nn.Parameter(torch.randn(shape))
        self.scale = 1 / math.sqrt(layer.in_channels * layer.kernel**2)
        self.modulation = EqualLinear(style_dim, layer.in_channels, bias_init=1.0)
        if layer.upsample:
            self.blur = Resample(gain=4.0)
        self.halve(None)

    @torch.no_grad()
    def halve(self, kind: torch.dtype | None) -> None:
        """Run convolutions in this type from now on, by a copy of the weights as they are; None goes back to theirs."""
        weight_OIkk, peak_O = self.weight[0], self.weight.new_ones(self.layer.out_channels)
        if kind is not None:
            peak_O = weight_OIkk.abs().amax((1, 2, 3)).clamp_min(EPSILON) / self.scale
            weight_OIkk = (weight_OIkk / peak_O[:, None, None, None]).to(kind)
        self.register_buffer("half_weight", None if kind is None else weight_OIkk[None], persistent=False)
        self.register_buffer("half_peak", peak_O, persistent=False)

    def forward(self, x_BIHW: Tensor, style_BI: Tensor, offset: AnyOffset | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the convolution and the factor (B, O) that the caller must multiply in: demodulation, none for toRGB in full precision.

        `style_BI` is what `modulation` makes of a latent. It scales the activations instead of the weights, which is exact and needs no
        per-sample kernels. An offset that differs between samples brings those back, unless it is factorised and that is cheaper.
        """
        if offset is not None:
            self._check(offset, batch=x_BIHW.shape[0])
        style_BI = style_BI * self.scale
        if isinstance(offset, FactorisedOffset) and not self._prefers_factors(x_BIHW, offset):
            offset = offset.dense()
        factor = self._demodulation(style_BI.to(self.weight.dtype), offset) if self.demodulate else None
        if self.half_weight is not None:
            peak_B1 = style_BI.abs().amax(1, keepdim=True).clamp_min(EPSILON)
            style_BI, scale_BO = style_BI / peak_B1, peak_B1 * self.half_peak
            factor = scale_BO if factor is None else scale_BO * factor
        x_BIHW = x_BIHW * like(x_BIHW, style_BI)
        if isinstance(offset, FactorisedOffset):
            y = self._convolve_factors(x_BIHW, offset)
        else:
            y = self._convolve(x_BIHW, self._kernels() if offset is None else self._offset_weight(offset))
        return self.blur(y, pad=1) if self.layer.upsample else y, factor

    def _kernels(self) -> Tensor:
        """Return the weight (1, O, I, k, k) that convolutions run with."""
        return self.weight if self.half_weight is None else self.half_weight

    def _convolve(self, x_BIHW: Tensor, weight: Tensor) -> Tensor:
        up = self.layer.upsample
        if weight.shape[0] == 1:
            return convolve(x_BIHW, weight[0], up=up)
        if x_BIHW.device.type == "cpu":
            return convolve_looped(x_BIHW, weight, up=up)
        return convolve_grouped(x_BIHW, weight, up=up)

    def _offset_weight(self, offset: Tensor) -> Tensor:
        """Return `weight * (1 + offset)` as (B or 1, O, I, k, k), in the type that the convolution will run in."""
        device = self.weight.device.type
        weight_OIkk = self._kernels()[0]
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_OIkk.dtype
        # Channels last: an offset per channel pair then meets runs of channels instead of the k * k weights of one pair, and transposed
        # convolutions, which take (I, O, k, k), need no copy.
        if self.layer.upsample:
            weight_IkkO = weight_OIkk.to(kind).permute(1, 2, 3, 0).contiguous()
            offset_BIkkO = offset.to(kind).permute(0, 2, 3, 4, 1).contiguous()
            return torch.addcmul(weight_IkkO, weight_IkkO, offset_BIkkO).permute(0, 4, 1, 2, 3)
        weight_OkkI = weight_OIkk.to(kind).permute(0, 2, 3, 1).contiguous()
        return torch.addcmul(weight_OkkI, weight_OkkI, offset.to(kind).permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)

    def _demodulation(self, style_BI: Tensor, offset: AnyOffset | None) -> Tensor:
        """Return one over the norm (B, O) of every modulated kernel, in full precision."""
        with torch.autocast(style_BI.device.type, enabled=False):
            if isinstance(offset, FactorisedOffset):
                return (self._factors_power(style_BI, offset) + EPSILON).rsqrt()
            return (self._power(style_BI, offset) + EPSILON).rsqrt()

    def _power(self, style_BI: Tensor, offset: Tensor | None) -> Tensor:
        if offset is not None and offset.shape[3] > 1:
            power_BOI = (self.weight * (1 + offset)).square().sum(dim=(3, 4))
        else:  # one factor per channel pair comes out of the sum over the kernel
            factor = 1 if offset is None else (1 + offset[..., 0, 0].to(self.weight.dtype)).square()
            power_BOI = self.weight.square().sum(dim=(3, 4)) * factor
        if power_BOI.shape[0] == 1:
            return style_BI.square() @ power_BOI[0].T
        return torch.bmm(power_BOI, style_BI.square()[:, :, None])[:, :, 0]

    def _prefers_factors(self, x_BIHW: Tensor, offset: FactorisedOffset) -> bool:
        """Compare what memory has to carry: a kernel per sample, or the activations of a second convolution."""
        layer = self.layer
        if offset.shape[0] == 1:  # one kernel, one convolution
            return False
        activations = layer.in_channels * x_BIHW.shape[2] * x_BIHW.shape[3] + layer.out_channels * layer.resolution**2
        return layer.in_channels * layer.out_channels * layer.kernel**2 > HEAVY_KERNELS * activations

    def _convolve_factors(self, x_BIHW: Tensor, offset: FactorisedOffset) -> Tensor:
        """Return the convolution by the kernels of all samples at once: with A = 1 + shared, `x * (theta A) + b ((a x) * theta)`."""
        weight_OIkk, along_in, along_out = self._kernels()[0], offset.in_BI, offset.out_BO
        fixed_OIkk = weight_OIkk * (1 + offset.shared_OI.to(weight_OIkk.dtype))[:, :, None, None]
        if self.half_weight is not None:  # the factors are of any size: what goes into the convolution is not
            peak_B1 = along_in.abs().amax(1, keepdim=True).clamp_min(EPSILON)
            along_in, along_out = along_in / peak_B1, along_out * peak_B1
        y = convolve(x_BIHW, fixed_OIkk, up=self.layer.upsample)
        varied = convolve(x_BIHW * like(x_BIHW, along_in), weight_OIkk, up=self.layer.upsample)
        return torch.addcmul(y, varied, like(varied, along_out))

    def _factors_power(self, style_BI: Tensor, offset: FactorisedOffset) -> Tensor:
        """Return the squared norms (B, O) of the modulated kernels by three products of small matrices."""
        norms_OI, factor_OI = self.weight[0].square().sum(dim=(2, 3)), 1 + offset.shared_OI
        style, inner, outer = style_BI.square(), offset.in_BI, offset.out_BO
        fixed = style @ (norms_OI * factor_OI.square()).T
        mixed = (style * inner) @ (norms_OI * factor_OI).T
        # A sum of squares in three parts that may cancel: rounding can leave less than nothing.
        return (fixed + 2 * outer * mixed + outer.square() * ((style * inner.square()) @ norms_OI.T)).clamp_min(0)

    def _check(self, offset: AnyOffset, *, batch: int) -> None:
        want = (self.layer.out_channels, self.layer.in_channels)
        kernels = ((1, 1), (self.layer.kernel, self.layer.kernel))
        if tuple(offset.shape[1:3]) != want or offset.shape[0] not in (1, batch) or tuple(offset.shape[3:]) not in kernels:
            expected = f"({batch} or 1, {want[0]}, {want[1]}, k, k) with k 1 or {self.layer.kernel}"
            raise ValueError(f"generator layer {self.layer.index}: offset must have shape {expected}, found {tuple(offset.shape)}")


def like(features_BCHW: Tensor, factor_BC: Tensor) -> Tensor:
    """Return factors per channel (B, C, 1, 1) in the features' type: promoted to float32, half-precision features would be cast back.

    What float16 cannot hold becomes the largest that it can: a channel that an offset takes away would else be nought times infinity.
    """
    if features_BCHW.dtype == torch.float16:
        most = torch.finfo(torch.float16).max
        factor_BC = factor_BC.clamp(-most, most)
    return factor_BC[:, :, None, None].to(features_BCHW.dtype)
