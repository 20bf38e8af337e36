"""CLIPInverter's networks: the CLIPAdapter on e4e's feature maps and the CLIPRemapper on the latents, in the released key layouts.

Shape legend: B batch, C channels, H/W rows/columns, E text embedding, L latent slots, N convolutions of the generator, D style width.
Source: CLIPInverter sections 3.2 (adapter, eq. 2 to 4) and 3.3 (remapper, eq. 5 and 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from models.layers import EPSILON
from models.stylegan2 import check_channels, layer_table

GROUPS = 32
RELEASED_SHARE = 0.9  # of a lambda that the released generator blends in
FIRST_LAMBDA = 0.05
RESIDUAL = 0.1
LEVELS = ("fine", "medium", "coarse")
"""From the finest feature map (after the second stage of e4e's trunk) to the deepest."""


class TextModulation(nn.Module):
    """Normalise a feature map, convolve it, and scale and shift its channels by what the text says."""

    def __init__(self, channels: int, *, text_dim: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.GroupNorm(groups, channels)
        self.gamma_function = _text_map(text_dim, channels)
        self.beta_function = _text_map(text_dim, channels)

    def forward(self, x_BCHW: Tensor, text_BE: Tensor) -> Tensor:
        """Keep the shape (CLIPInverter eq. 3 and 4): `x (1 + exp g(t)) + b(t)`, leaky ReLU."""
        x = x_BCHW * (x_BCHW.square().mean(dim=1, keepdim=True) + EPSILON).rsqrt()
        factor, shift = self.gamma_function(text_BE).exp(), self.beta_function(text_BE)
        x = self.norm(self.conv(x)) * (1 + factor[:, :, None, None]) + shift[:, :, None, None]
        return nn.functional.leaky_relu(x, 0.01)


class _Level(nn.Module):
    def __init__(self, channels: int, *, text_dim: int, groups: int) -> None:
        super().__init__()
        self.modulation_module_list = nn.ModuleList([TextModulation(channels, text_dim=text_dim, groups=groups)])

    def forward(self, x_BCHW: Tensor, text_BE: Tensor) -> Tensor:
        for module in self.modulation_module_list:
            x_BCHW = module(x_BCHW, text_BE)
        return x_BCHW


class CLIPAdapter(nn.Module):
    """Replace e4e's feature maps by text-modulated ones.

    `widths` are the channels of the maps, finest first; `levels` names those that are modulated (the others pass); `residual` is the share
    of the codes of the modulated maps that an edit adds to the latents. Raises ValueError
    for an unknown level or widths that do not divide into groups.
    """

    def __init__(
        self, *, widths: Sequence[int] = (128, 256, 512), text_dim: int = 512, groups: int = GROUPS, levels: Sequence[str] = LEVELS,
        residual: float = RESIDUAL,
    ) -> None:  # fmt: skip
        super().__init__()
        self.residual = residual
        unknown = sorted(set(levels) - set(LEVELS))
        if unknown or len(widths) != len(LEVELS):
            names = ", ".join(LEVELS)
            raise ValueError(f"clip adapter: expected three widths and levels among {names}, found {list(widths)}, {list(levels)}")
        self.levels = tuple(levels)
        for level, width in zip(LEVELS, widths, strict=True):
            if level in self.levels:
                self.add_module(f"{level}_mapping", _Level(width, text_dim=text_dim, groups=groups))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], text_BE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three maps, finest first; `text_BE` is the raw CLIP embedding, one row per sample."""
        fine, medium, coarse = (
            self.get_submodule(f"{level}_mapping")(x, text_BE) if level in self.levels else x for level, x in zip(LEVELS, maps, strict=True)
        )
        return fine, medium, coarse


Variant = Literal["released", "paper", "latents"]


class CLIPRemapper(nn.Module):
    """Blend every latent with what a small network per style input makes of the text.

    `size` and `channels` are the generator's. `variant` "released" blends the latents of the convolutions after the first and leaves
    toRGB alone. The others blend all slots but the first: "paper" the residuals that the adapter made, at their length (eq. 6), so that
    it changes nothing where there are none; "latents" the latents themselves, at theirs (section 3.2 speaks of both).
    """

    def __init__(
        self, size: int = 1024, *, channels: Mapping[int, int] | None = None, style_dim: int = 512, text_dim: int = 512,
        variant: Variant = "released",
    ) -> None:  # fmt: skip
        super().__init__()
        if variant not in get_args(Variant):
            raise ValueError(f"clip remapper: variant expected one of {', '.join(get_args(Variant))}, found {variant!r}")
        self.variant = variant
        self.layers = layer_table(size, check_channels(size, channels))
        blended = [layer.latent for layer in self.layers if layer.kind == "conv"][1:]
        self.affine_mlps = nn.ModuleList(_remap(text_dim, style_dim) for _ in blended)
        self.lambdas = nn.ParameterList(nn.Parameter(torch.tensor(FIRST_LAMBDA)) for _ in blended)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, latents_BLD: Tensor, text_BE: Tensor, *, before_BLD: Tensor) -> Tensor:
        """Return latents: one per convolution (B, N, D) in the released form, else per slot (B, L, D).

        `before_BLD` are the latents before the adapter moved them to `latents_BLD`.
        """
        if self.variant == "paper":
            return before_BLD + self._residuals(latents_BLD - before_BLD, text_BE)
        if self.variant == "latents":
            return self._latents(latents_BLD, text_BE)
        each = [latents_BLD[:, layer.latent] for layer in self.layers]
        convs = [layer.index for layer in self.layers if layer.kind == "conv"][1:]
        for index, remap, share in zip(convs, self.affine_mlps, self.lambdas, strict=True):
            each[index] = torch.lerp(each[index], remap(text_BE).to(each[index]), (RELEASED_SHARE * share).to(each[index]))
        return torch.stack(each, dim=1)

    def _residuals(self, residual_BLD: Tensor, text_BE: Tensor) -> Tensor:
        """Return `alpha * residual + (1 - alpha) * MLP(text)` at the residual's length (eq. 5 and 6)."""
        slots = list(residual_BLD.unbind(1))
        for slot, (remap, share) in enumerate(zip(self.affine_mlps, self.lambdas, strict=True), start=1):
            blend = torch.lerp(remap(text_BE).to(slots[slot]).expand_as(slots[slot]), slots[slot], share.to(slots[slot]))
            slots[slot] = blend * (slots[slot].norm(dim=1, keepdim=True) / (blend.norm(dim=1, keepdim=True) + EPSILON))
        return torch.stack(slots, dim=1)

    def _latents(self, latents_BLD: Tensor, text_BE: Tensor) -> Tensor:
        slots = list(latents_BLD.unbind(1))
        for slot, (remap, share) in enumerate(zip(self.affine_mlps, self.lambdas, strict=True), start=1):
            blend = torch.lerp(slots[slot], remap(text_BE).to(slots[slot]), share.to(slots[slot]))
            slots[slot] = blend * (slots[slot].norm(dim=1, keepdim=True) / (blend.norm(dim=1, keepdim=True) + EPSILON))
        return torch.stack(slots, dim=1)


def _text_map(text_dim: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(text_dim, text_dim), nn.LayerNorm(text_dim), nn.LeakyReLU(), nn.Linear(text_dim, channels))


def _remap(text_dim: int, style_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(text_dim, style_dim), nn.ReLU(), nn.Linear(style_dim, style_dim),
        nn.LayerNorm(style_dim), nn.ReLU(), nn.Linear(style_dim, style_dim),
    )  # fmt: skip
