"""The generator under HyperEditor's offsets with static convolutions only: no kernels per sample, so it can be exported with any batch.

Shape legend: B batch, L latent slots, D style width, O/I output/input channels, k kernel width, H/W picture rows/columns.
With the offset `s (u v^T + c)` of a sample (s strength, u and v vectors of the hypernetwork, c its constant matrix) a convolution by
`theta * (1 + s (u v^T + c))` is `x * theta + s (x * theta c) + s u (v x * theta)`, exactly; the squared norms that demodulate it are a
polynomial in s and u whose coefficients are products of small matrices. `models/modulated_conv.py` is the plain reference.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.hypereditor import HyperEditor
from models.layers import EPSILON
from models.modulated_conv import ModulatedConv, like
from models.refinement import SeparableKernel
from models.state import FactorisedOffset
from models.stylegan2 import CLAMP, GAIN, Generator, StyledConv, ToRGB

AFTER_THE_TRUNK = ("fc_gamma", "fc_beta", "hypernetworks")
"""Parts of a HyperEditor that only its heads' graph has."""


class _Styled(nn.Module):
    """What all convolutions share: the style of a latent slot, scaled as the convolution wants it, and kernels in the convolution's type.

    In half precision (`kind`) kernels are stored with at most 1 / sqrt(fan-in) per output channel and styles divided to at most 1 per
    picture; what is made of both has to be multiplied by `peak` and by what `fitted` returns, in float32.
    """

    style_weight: Tensor
    style_bias: Tensor
    peak: Tensor

    def __init__(self, conv: ModulatedConv, kind: torch.dtype | None) -> None:
        super().__init__()
        linear = conv.modulation
        self.slot, self.kind = conv.layer.latent, kind
        self.register_buffer("style_weight", (linear.weight * (linear.scale * conv.scale)).T.contiguous())
        self.register_buffer("style_bias", linear.bias * (linear.lr_mul * conv.scale))
        self.register_buffer("peak", conv.half_peak.clone())

    def style(self, latents_BLD: Tensor) -> Tensor:
        """Return the style (B, I) of this convolution."""
        return latents_BLD[:, self.slot] @ self.style_weight + self.style_bias

    def stored(self, weight_OIkk: Tensor) -> Tensor:
        """Return a kernel in the convolution's type."""
        return weight_OIkk.clone() if self.kind is None else (weight_OIkk / self.peak[:, None, None, None]).to(self.kind)

    def fitted(self, factor_BI: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return factors of the activations that half precision can hold, and what they were divided by (B, 1); as they are in float32."""
        if self.kind is None:
            return factor_BI, None
        peak_B1 = factor_BI.abs().amax(1, keepdim=True).clamp_min(EPSILON)
        return factor_BI / peak_B1, peak_B1

    def times(self, x_BCHW: Tensor, factor_BC: Tensor) -> Tensor:
        """Return features times a factor per channel, in the features' type."""
        return x_BCHW * like(x_BCHW, factor_BC)


class _Conv(_Styled):
    """A demodulated convolution with noise, bias and leaky ReLU, and no offset."""

    theta: Tensor
    shift: Tensor
    norms: Tensor
    blur: Tensor

    def __init__(self, styled: StyledConv, noise: Tensor, kind: torch.dtype | None) -> None:
        super().__init__(styled.conv, kind)
        self.up = styled.conv.layer.upsample
        theta_OIkk = styled.conv.weight[0]
        self.register_buffer("theta", self._kernel(theta_OIkk))
        shift = (styled.noise.weight * noise + styled.activate.bias[:, None, None]) * GAIN
        self.register_buffer("shift", shift.to(self.theta.dtype))
        self.register_buffer("norms", theta_OIkk.square().sum(dim=(2, 3)).T.contiguous())
        if self.up:
            self.register_buffer("blur", styled.conv.blur.kernel.expand(len(theta_OIkk), 1, 4, 4).to(self.theta.dtype, copy=True))

    def _kernel(self, weight_OIkk: Tensor) -> Tensor:
        """Return a kernel as its convolution takes it: turned round here, a large one would be turned round in the graph."""
        stored = self.stored(weight_OIkk)
        return (stored.transpose(0, 1) if self.up else stored).clone(memory_format=torch.contiguous_format)

    def convolve(self, x_BIHW: Tensor, kernel: Tensor) -> Tensor:
        """Convolve; 3x3 transposed convolutions give 2H + 1 rows."""
        return F.conv_transpose2d(x_BIHW, kernel, stride=2) if self.up else F.conv2d(x_BIHW, kernel, padding=1)

    def demodulation(self, power_BO: Tensor, peak_B1: Tensor | None) -> Tensor:
        """Return the factor (B, O) of the convolution: one over the norm, the gain, and what scales half precision back."""
        factor_BO = (power_BO + EPSILON).rsqrt() * GAIN
        return factor_BO if peak_B1 is None else factor_BO * (peak_B1 * self.peak)

    def finish(self, y_BOHW: Tensor, factor_BO: Tensor) -> Tensor:
        """Blur where the picture grew, demodulate, add noise and bias, and activate."""
        if self.up:  # blur and demodulation commute: one blur, after all branches were added
            y_BOHW = F.conv2d(y_BOHW, self.blur, padding=1, groups=self.blur.shape[0])
        out = F.leaky_relu(self.times(y_BOHW, factor_BO) + self.shift, 0.2)
        return out if self.kind is None else out.clamp(-CLAMP, CLAMP)

    def forward(self, x_BIHW: Tensor, latents_BLD: Tensor) -> Tensor:
        """Return (B, O, H, W)."""
        style_BI = self.style(latents_BLD)
        fitted_BI, peak_B1 = self.fitted(style_BI)
        y = self.convolve(self.times(x_BIHW, fitted_BI), self.theta)
        return self.finish(y, self.demodulation(style_BI.square() @ self.norms, peak_B1))


class _EditedConv(_Conv):
    """The same under an offset: three static convolutions."""

    theta_shared: Tensor
    norms_shared: Tensor
    norms_shared_squared: Tensor

    def __init__(self, styled: StyledConv, noise: Tensor, kind: torch.dtype | None, *, shared_OI: Tensor) -> None:
        super().__init__(styled, noise, kind)
        # Half precision holds the product in the size of the weight.
        self.shared_peak = max(1.0, float(shared_OI.abs().max())) if kind is not None else 1.0
        self.register_buffer("theta_shared", self._kernel(styled.conv.weight[0] * (shared_OI / self.shared_peak)[:, :, None, None]))
        self.register_buffer("norms_shared", self.norms * shared_OI.T)
        self.register_buffer("norms_shared_squared", self.norms * shared_OI.T.square())

    def edited(self, x_BIHW: Tensor, latents_BLD: Tensor, strength_B1: Tensor, *, out_BO: Tensor, in_BI: Tensor) -> Tensor:
        """Return (B, O, H, W) under the offset `strength * (out in^T + shared)`."""
        style_BI = self.style(latents_BLD)
        fitted_BI, peak_B1 = self.fitted(style_BI)
        inner_BI, inner_peak_B1 = self.fitted(in_BI)
        outer_BO = strength_B1 * out_BO
        factor_BO = self.demodulation(self._power(style_BI.square(), strength_B1, outer_BO=outer_BO, in_BI=in_BI), peak_B1)
        x = self.times(x_BIHW, fitted_BI)
        y, same = self.convolve(x, self.theta), self.convolve(x, self.theta_shared)
        varied = self.convolve(self.times(x, inner_BI), self.theta)
        same_BO = (strength_B1 * self.shared_peak).expand_as(outer_BO)
        varied_BO = outer_BO if inner_peak_B1 is None else outer_BO * inner_peak_B1
        if self.kind is not None:  # half precision adds branches of at most their own size: they may cancel, and are demodulated after it
            largest_BO = torch.maximum(same_BO.abs(), varied_BO.abs()).clamp_min(1)
            same_BO, varied_BO, factor_BO = same_BO / largest_BO, varied_BO / largest_BO, factor_BO * largest_BO
            y = self.times(y, 1 / largest_BO)
        return self.finish(y + self.times(same, same_BO) + self.times(varied, varied_BO), factor_BO)

    def _power(self, square_BI: Tensor, strength_B1: Tensor, *, outer_BO: Tensor, in_BI: Tensor) -> Tensor:
        once_BI = square_BI * in_BI
        fixed = square_BI @ self.norms + strength_B1 * (2 * (square_BI @ self.norms_shared))
        fixed = fixed + strength_B1.square() * (square_BI @ self.norms_shared_squared)
        mixed = once_BI @ self.norms + strength_B1 * (once_BI @ self.norms_shared)
        # A sum of squares in parts that may cancel: rounding can leave less than nothing.
        return (fixed + 2 * outer_BO * mixed + outer_BO.square() * ((once_BI * in_BI) @ self.norms)).clamp_min(0)


class _Colour(_Styled):
    """Project features to RGB and add the enlarged picture of the resolution below, in float32."""

    theta: Tensor
    bias: Tensor
    enlarge: Tensor

    def __init__(self, to_rgb: ToRGB, kind: torch.dtype | None) -> None:
        super().__init__(to_rgb.conv, kind)
        self.register_buffer("theta", self.stored(to_rgb.conv.weight[0]))
        self.register_buffer("bias", to_rgb.bias.clone())
        if to_rgb.conv.layer.resolution > 4:
            self.register_buffer("enlarge", to_rgb.upsample.kernel.expand(3, 1, 4, 4).clone())

    def forward(self, x_BIHW: Tensor, latents_BLD: Tensor, skip: Tensor | None) -> Tensor:
        """Return an RGB picture (B, 3, H, W)."""
        style_BI, peak_B1 = self.fitted(self.style(latents_BLD))
        y = F.conv2d(self.times(x_BIHW, style_BI), self.theta)
        if peak_B1 is not None:
            y = y.float() * (peak_B1 * self.peak)[:, :, None, None]
        y = y + self.bias
        return y if skip is None else y + F.conv_transpose2d(skip, self.enlarge, stride=2, padding=1, groups=3)


class EditingGenerator(nn.Module):
    """Render latents under the offsets of a HyperEditor, at any strength.

    `shared` are the constant parts of the offsets by output index, as `shared_offsets` returns them. The weights are copies, in the
    generator's precision: they do not follow the networks that they were taken from.
    """

    start: Tensor

    def __init__(self, generator: Generator, shared: Mapping[int, Tensor]) -> None:
        super().__init__()
        kind = generator.kind
        with torch.no_grad():
            self.register_buffer("start", generator.input.input.to(kind or generator.input.input.dtype, copy=True))
            styled, colours = iter((generator.conv1, *generator.convs)), iter((generator.to_rgb1, *generator.to_rgbs))
            noises = iter(generator.noises.buffers())
            self.layers = nn.ModuleList()
            for layer in generator.layers:
                if layer.kind == "rgb":
                    self.layers.append(_Colour(next(colours), kind))
                elif layer.index in shared:
                    self.layers.append(_EditedConv(next(styled), next(noises), kind, shared_OI=shared[layer.index]))
                else:
                    self.layers.append(_Conv(next(styled), next(noises), kind))
        edited = [layer for layer in generator.layers if layer.index in shared]
        self.outs = [layer.out_channels for layer in edited]
        self.ins = [layer.in_channels for layer in edited]

    def forward(self, latents_BLD: Tensor, strength_B1: Tensor, outs: Tensor, ins: Tensor) -> Tensor:
        """Return images (B, 3, H, W); `outs` (B, sum O) and `ins` (B, sum I) are the offsets' vectors, all layers side by side."""
        vectors = iter(zip(outs.split(self.outs, dim=1), ins.split(self.ins, dim=1), strict=True))
        x, skip = self.start, None
        for layer in self.layers:
            if isinstance(layer, _Colour):
                skip = layer(x, latents_BLD, skip)
            elif isinstance(layer, _EditedConv):
                out_BO, in_BI = next(vectors)
                x = layer.edited(x, latents_BLD, strength_B1, out_BO=out_BO, in_BI=in_BI)
            else:
                x = layer(x, latents_BLD)
        assert skip is not None
        return skip


class Trunk(nn.Module):
    """Run a HyperEditor up to the features that its heads read, before any text."""

    def __init__(self, hypernetwork: HyperEditor) -> None:
        super().__init__()
        self.hypernetwork = without(hypernetwork, AFTER_THE_TRUNK)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return features (B, C, H/16, W/16)."""
        return self.hypernetwork.seen(image_BCHW)


class OffsetVectors(nn.Module):
    """Run a HyperEditor's heads up to the vectors of its offsets, which differ between pictures; what is the same for all is no output."""

    def __init__(self, hypernetwork: HyperEditor) -> None:
        super().__init__()
        self.hypernetwork = without(hypernetwork, [name for name, _ in hypernetwork.named_children() if name not in AFTER_THE_TRUNK])

    def forward(self, seen_BCHW: Tensor, direction_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of all layers side by side in output order: (B, sum O) and (B, sum I)."""
        found = sorted(self.hypernetwork.factors_of(seen_BCHW, direction_BE).items())
        offsets = [offset for _, offset in found if isinstance(offset, FactorisedOffset)]
        return torch.cat([offset.out_BO for offset in offsets], dim=1), torch.cat([offset.in_BI for offset in offsets], dim=1)


def without(network: HyperEditor, names: Collection[str]) -> HyperEditor:
    """Return a network of the same weights without some parts, so that what copies or compiles a graph does not carry them along."""
    part = copy.copy(network)
    part._modules = {name: module for name, module in network._modules.items() if name not in names}
    return part


def offsets_of(shared: Mapping[int, Tensor], outs: Tensor, ins: Tensor) -> dict[int, FactorisedOffset]:
    """Return the offsets of layers with these constant parts (O, I) from their vectors side by side, as `OffsetVectors` returns them."""
    sides = (value.split([constant.shape[side] for constant in shared.values()], dim=1) for side, value in enumerate((outs, ins)))
    parts = zip(shared.items(), *sides, strict=True)
    return {index: FactorisedOffset(out_BO=out, in_BI=into, shared_OI=constant) for (index, constant), out, into in parts}


@torch.no_grad()
def shared_offsets(hypernetwork: HyperEditor) -> dict[int, Tensor]:
    """Return the constant part (O, I) of every tuned layer's offset. Raises ValueError where a head makes kernels or tunes toRGB."""
    shared = {}
    for layer in hypernetwork.tuned:
        kernel = hypernetwork.head(layer.index).output[0]
        if not isinstance(kernel, SeparableKernel) or kernel.kernel_size > 1:
            wrong = "tunes toRGB" if layer.kind == "rgb" else f"makes {kernel.kernel_size} x {kernel.kernel_size} kernels"
            raise ValueError(
                f"hypereditor: layer {layer.index} {wrong}, which gives every picture kernels of its own; only offsets of kernel size 1 on "
                "other convolutions can be run as a graph with any batch"
            )
        shared[layer.index] = kernel.constant()
    return shared
