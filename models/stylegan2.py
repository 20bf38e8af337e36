"""StyleGAN2 generator in the key layout of the released checkpoints, with fixed noise and weight offsets.

Shape legend: B batch, L latent slots, D style width, O/I output/input channels, k kernel width, H/W picture rows/columns.
Source: StyleGAN2; offsets as in HyperStyle eq. 4-5: `theta_hat = theta * (1 + offset)`, demodulated after the offset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import EqualLinear, PixelNorm, Resample
from models.modulated_conv import Layer, ModulatedConv, like
from models.state import AnyOffset, GeneratorState, Offsets

GAIN = math.sqrt(2)
CLAMP = 256 * GAIN
"""What activations in half precision are clamped to, as in the reference; what the trained generators make stays far below."""
CACHED = 1 << 22
"""Values of a layer's activations that a CPU takes at a time: more cost memory, and time once they leave its caches."""
Noise = Sequence[Tensor | None]


def default_channels(size: int) -> dict[int, int]:
    """Return the released width per resolution: 512 up to 64 px, then halved at each step (32 at 1024 px)."""
    return {2**n: min(512, 2 ** (15 - n)) for n in range(2, int(math.log2(size)) + 1)}


def layer_table(size: int, channels: Mapping[int, int]) -> tuple[Layer, ...]:
    """List the convolutions of a generator in output order: conv1, toRGB, then conv (up), conv, toRGB per resolution."""
    layers: list[Layer] = []

    def add(kind: Literal["conv", "rgb"], c_in: int, c_out: int, slot: int, resolution: int, up: bool) -> None:
        width = {"in_channels": c_in, "out_channels": c_out, "kernel": 3 if kind == "conv" else 1}
        layers.append(Layer(index=len(layers), kind=kind, latent=slot, resolution=resolution, upsample=up, **width))

    add("conv", channels[4], channels[4], 0, 4, False)
    add("rgb", channels[4], 3, 1, 4, False)
    for step in range(int(math.log2(size)) - 2):
        resolution = 8 * 2**step
        c_in, c_out = channels[resolution // 2], channels[resolution]
        add("conv", c_in, c_out, 2 * step + 1, resolution, True)
        add("conv", c_out, c_out, 2 * step + 2, resolution, False)
        add("rgb", c_out, 3, 2 * step + 3, resolution, False)
    return tuple(layers)


def check_channels(size: int, channels: Mapping[int, int] | None) -> dict[int, int]:
    """Return widths with integer keys for every resolution up to `size`. Raises ValueError for a bad size or a missing width."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"generator size must be a power of two from 8 up, found {size}")
    widths = default_channels(size) if channels is None else {int(k): int(v) for k, v in channels.items()}
    needed = [2**n for n in range(2, int(math.log2(size)) + 1)]
    missing = [resolution for resolution in needed if resolution not in widths]
    if missing:
        raise ValueError(f"generator channels lack a width for resolution {missing[0]}; a {size} px generator needs {needed}")
    return {resolution: widths[resolution] for resolution in needed}


class _NoiseStrength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class _Bias(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class _Constant(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class StyledConv(nn.Module):
    """Run a modulated convolution, add noise and bias, and apply the leaky ReLU."""

    def __init__(self, layer: Layer, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(layer, style_dim)
        self.noise = _NoiseStrength()
        self.activate = _Bias(layer.out_channels)

    def forward(self, x_BIHW: Tensor, style_BI: Tensor, noise: Tensor, offset: AnyOffset | None = None) -> Tensor:
        """Return (B, O, H, W); `noise` has shape (1 or B, 1, H, W)."""
        y, demodulation = self.conv(x_BIHW, style_BI, offset)
        assert demodulation is not None
        # leaky(y) * gain = leaky(y * gain): the gain rides on factors that are multiplied in anyway.
        shift = ((self.noise.weight * noise + self.activate.bias[:, None, None]) * GAIN).to(y.dtype)
        shift = shift.contiguous(memory_format=torch.channels_last)
        out = F.leaky_relu_(torch.addcmul(shift, y, like(y, demodulation * GAIN)), 0.2)
        return out if self.conv.half_weight is None else out.clamp_(-CLAMP, CLAMP)


class ToRGB(nn.Module):
    """Project features to RGB and add the enlarged picture of the resolution below."""

    def __init__(self, layer: Layer, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(layer, style_dim)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if layer.resolution > 4:
            self.upsample = Resample(gain=4.0)

    def forward(self, x_BIHW: Tensor, style_BI: Tensor, skip: Tensor | None = None, offset: AnyOffset | None = None) -> Tensor:
        """Return an RGB picture (B, 3, H, W)."""
        y, factor = self.conv(x_BIHW, style_BI, offset)
        y = (y if factor is None else y.float() * like(factor, factor)) + self.bias
        return y if skip is None else y + self.upsample.enlarge(skip)


class _Noises(nn.Module):
    def __init__(self, resolutions: Sequence[int]) -> None:
        super().__init__()
        for number, resolution in enumerate(resolutions):
            self.register_buffer(f"noise_{number}", torch.randn(1, 1, resolution, resolution))


class Generator(nn.Module):
    """Make images from a generator state.

    `channels` maps each resolution from 4 to `size` to its width; None is the released widths. The stored noise is always used, so the
    same state gives the same image. Raises ValueError for a size that is not a power of two or for a missing width.
    """

    def __init__(self, size: int = 1024, style_dim: int = 512, n_mlp: int = 8, *, channels: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.size = size
        self.style_dim = style_dim
        self.channels = check_channels(size, channels)
        self.layers = layer_table(size, self.channels)
        self.n_latents = 2 * int(math.log2(size)) - 2
        self.style = nn.Sequential(PixelNorm(), *(EqualLinear(style_dim, style_dim, lr_mul=0.01, activate=True) for _ in range(n_mlp)))
        self.input = _Constant(self.channels[4])
        convs = [layer for layer in self.layers if layer.kind == "conv"]
        rgbs = [layer for layer in self.layers if layer.kind == "rgb"]
        self.conv1 = StyledConv(convs[0], style_dim)
        self.to_rgb1 = ToRGB(rgbs[0], style_dim)
        self.convs = nn.ModuleList(StyledConv(layer, style_dim) for layer in convs[1:])
        self.to_rgbs = nn.ModuleList(ToRGB(layer, style_dim) for layer in rgbs[1:])
        self.noises = _Noises([layer.resolution for layer in convs])

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def halved(self, kind: torch.dtype | None) -> Self:
        """Run convolutions in bfloat16 or float16 from now on, for inference; None goes back to full precision. Return itself."""
        for conv in self.convolutions():
            conv.halve(kind)
        return self

    @property
    def kind(self) -> torch.dtype | None:
        """Return the half precision that convolutions run in, None for full precision."""
        half = self.conv1.conv.half_weight
        return None if half is None else half.dtype

    def mapping(self, z_BD: Tensor) -> Tensor:
        """Map normal noise z to w, both (B, D)."""
        return self.style(z_BD)

    @torch.no_grad()
    def mean_latent(self, n: int = 10_000, *, seed: int = 0) -> Tensor:
        """Return the mean w (D,) over `n` seeded draws of z."""
        weight = self.conv1.conv.weight
        z = torch.randn(n, self.style_dim, generator=torch.Generator().manual_seed(seed))
        return torch.cat([self.mapping(part.to(weight)) for part in z.split(4096)]).mean(dim=0)

    def repeat(self, w_BD: Tensor) -> Tensor:
        """Use one w in every slot: (B, D) -> (B, L, D)."""
        return w_BD[:, None].expand(-1, self.n_latents, -1)

    def forward(self, state: GeneratorState) -> Tensor:
        """Return the images of a state, RGB about [-1, 1], (B, 3, size, size)."""
        return self.synthesis(state.latents_BLD, state.offsets)

    def synthesis(self, latents_BLD: Tensor, offsets: Offsets | None = None, *, noise: Noise | None = None) -> Tensor:
        """Return images (B, 3, size, size) of W+ latents under `offsets`.

        `latents_BLD` may also hold one latent for every convolution, toRGB included, in output order. `noise` overrides the stored noise
        of single convolutions: one entry per non-toRGB layer, (1 or B, 1, H, W), None keeps the stored one. Raises ValueError when
        latents, offsets or noise do not fit this generator.
        """
        return self.render(self.styles(latents_BLD), offsets, noise=noise)

    def styles(self, latents_BLD: Tensor) -> list[Tensor]:
        """Return the style (B, I) of every convolution, toRGB included, in output order: StyleSpace (StyleSpace Analysis, section 2)."""
        each = latents_BLD.shape[1] if latents_BLD.ndim == 3 else 0
        if each not in (self.n_latents, len(self.layers)) or latents_BLD.shape[2] != self.style_dim:
            expected = f"(B, {self.n_latents} or {len(self.layers)}, {self.style_dim})"
            raise ValueError(f"{self.size} px generator: latents must have shape {expected}, found {tuple(latents_BLD.shape)}")
        slots = [layer.latent if each == self.n_latents else layer.index for layer in self.layers]
        if self.kind is not None:
            latents_BLD = latents_BLD.to(self.conv1.conv.weight.dtype)
        with self._own_precision():
            return [conv.modulation(latents_BLD[:, slot]) for conv, slot in zip(self.convolutions(), slots, strict=True)]

    def _own_precision(self) -> AbstractContextManager[object]:
        """Return a context that keeps autocast out of a halved generator, which knows better what may be rounded."""
        return nullcontext() if self.kind is None else torch.autocast(self.input.input.device.type, enabled=False)

    def convolutions(self) -> list[ModulatedConv]:
        """Return the modulated convolutions in output order; the offset of output index i applies to the weight of the i-th."""
        convs, rgbs = iter((self.conv1, *self.convs)), iter((self.to_rgb1, *self.to_rgbs))
        return [next(convs if layer.kind == "conv" else rgbs).conv for layer in self.layers]

    def render(self, styles: Sequence[Tensor], offsets: Offsets | None = None, *, noise: Noise | None = None) -> Tensor:
        """Return images (B, 3, size, size) of styles as `styles` returns them; the rest as in `synthesis`."""
        offsets = offsets or {}
        self._check(styles, offsets)
        noises = self._noises(noise)
        # Channels last: the transposed convolutions are twice as fast on a CPU.
        start = self.input.input if self.kind is None else self.input.input.to(self.kind)
        x = start.expand(styles[0].shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        with self._own_precision():
            return self._layers(0, x, None, styles, offsets, noises)

    def _layers(
        self, first: int, x: Tensor, skip: Tensor | None, styles: Sequence[Tensor], offsets: Offsets, noises: Sequence[Tensor]
    ) -> Tensor:
        """Run the layers from `first` on; where activations outgrow a processor's caches, a part of the batch after the other."""
        modules, projections = self._by_layer()
        for layer in self.layers[first:]:
            if (part := self._part(layer, x)) < len(x):
                rows = [slice(start, start + part) for start in range(0, len(x), part)]
                return torch.cat([self._layers(layer.index, *_taken(one, x, skip, styles, offsets, noises)) for one in rows])
            style_BI, offset = styles[layer.index], offsets.get(layer.index)
            if layer.kind == "conv":
                number, module = modules[layer.index]
                x = module(x, style_BI, noises[number], offset)
            else:
                skip = projections[layer.index](x, style_BI, skip, offset)
        assert skip is not None
        return skip

    def _part(self, layer: Layer, x: Tensor) -> int:
        """Return how many pictures of a batch a layer should take at a time: all with gradients or on a GPU, else what fits into caches."""
        if torch.is_grad_enabled() or x.device.type != "cpu" or layer.kind == "rgb":
            return x.shape[0]
        return max(1, CACHED // (max(layer.in_channels, layer.out_channels) * layer.resolution**2))

    def _by_layer(self) -> tuple[dict[int, tuple[int, StyledConv]], dict[int, ToRGB]]:
        """Return the convolutions, with their number among them, and the projections by output index."""
        convs, rgbs = iter(enumerate((self.conv1, *self.convs))), iter((self.to_rgb1, *self.to_rgbs))
        modules = {layer.index: next(convs) for layer in self.layers if layer.kind == "conv"}
        return modules, {layer.index: next(rgbs) for layer in self.layers if layer.kind == "rgb"}

    def _noises(self, given: Noise | None) -> list[Tensor]:
        stored = list(self.noises.buffers())
        if given is None:
            return stored
        if len(given) != len(stored):
            raise ValueError(f"generator noise: expected {len(stored)} entries, one per convolution, found {len(given)}")
        return [s if g is None else g for s, g in zip(stored, given, strict=True)]

    def _check(self, styles: Sequence[Tensor], offsets: Offsets) -> None:
        widths = [layer.in_channels for layer in self.layers]
        found = [style.shape[-1] for style in styles]
        if found != widths:
            raise ValueError(f"{self.size} px generator: styles must have the widths {widths}, found {found}")
        unknown = [index for index in offsets if not 0 <= index < len(self.layers)]
        if unknown:
            raise ValueError(f"{self.size} px generator: offset {unknown[0]} has no layer; indices run from 0 to {len(self.layers) - 1}")


def _taken(
    rows: slice, x: Tensor, skip: Tensor | None, styles: Sequence[Tensor], offsets: Offsets, noises: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None, list[Tensor], dict[int, AnyOffset], list[Tensor]]:
    """Return what some pictures of a batch need; what all share stays whole."""
    return (
        x[rows], None if skip is None else skip[rows], [style_BI if style_BI.shape[0] == 1 else style_BI[rows] for style_BI in styles],
        {index: offset if offset.shape[0] == 1 else offset[rows] for index, offset in offsets.items()},
        [noise if noise.shape[0] == 1 else noise[rows] for noise in noises],
    )  # fmt: skip
