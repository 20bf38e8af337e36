"""StyleSpace of the convolutions: their styles, and any change of these as weight offsets of a generator state.

Shape legend: B batch, L latent slots, D style width, O/I output/input channels of a convolution, S channels of all styles together.
Source: StyleSpace Analysis, section 2. The styles of toRGB stay, as in DeltaEdit and StyleMC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.modulated_conv import Layer
from models.state import FactorisedOffset, GeneratorState
from models.stylegan2 import Generator, check_channels, layer_table

SMALLEST_STYLE = 1e-6
"""Styles nearer to 0 are divided by this much: an input channel that does not count can hardly be edited by a factor."""


def style_layers(size: int, channels: Mapping[int, int] | None) -> tuple[Layer, ...]:
    """Return the convolutions of a generator whose styles are edited, in output order."""
    return tuple(layer for layer in layer_table(size, check_channels(size, channels)) if layer.kind == "conv")


def style_channels(layers: Sequence[Layer]) -> int:
    """Return S, the number of channels of all styles together."""
    return sum(layer.in_channels for layer in layers)


def styles(generator: Generator, latents_BLD: Tensor) -> dict[int, Tensor]:
    """Return the style (B, I) of every convolution but toRGB, by output index: what its modulation makes of the latent, bias included."""
    found = generator.styles(latents_BLD)
    return {layer.index: found[layer.index] for layer in generator.layers if layer.kind == "conv"}


def joined(styles: Mapping[int, Tensor]) -> Tensor:
    """Return styles by output index as one row per sample (B, S), in output order."""
    return torch.cat([styles[index] for index in sorted(styles)], dim=1)


def parted(styles_BS: Tensor, layers: Sequence[Layer]) -> dict[int, Tensor]:
    """Return rows that `joined` made as styles (B, I) by output index."""
    parts = styles_BS.split([layer.in_channels for layer in layers], dim=1)
    return {layer.index: part for layer, part in zip(layers, parts, strict=True)}


def as_offsets(generator: Generator, styles: Mapping[int, Tensor], changes: Mapping[int, Tensor]) -> dict[int, FactorisedOffset]:
    """Return the weight offsets that do what adding `changes` (B or 1, I) to `styles` (B, I) would, by output index.

    Exact: `theta * (1 + ds / s) * s = theta * (s + ds)`, and the demodulation follows the offset. Differentiable in both; scaling the
    offsets scales the changes. Raises ValueError for a change of something that is no convolution or has another shape.
    """
    offsets: dict[int, FactorisedOffset] = {}
    for index, change in changes.items():
        style = styles.get(index)
        if style is None or change.shape not in (style.shape, (1, *style.shape[1:])):
            wanted = f"no more than {sorted(styles)}" if style is None else f"the shape {tuple(style.shape)}"
            raise ValueError(f"change of style {index}: expected {wanted}, found {tuple(change.shape)}")
        layer = generator.layers[index]
        floor = torch.where(style < 0, -SMALLEST_STYLE, SMALLEST_STYLE).to(style)
        offsets[index] = FactorisedOffset(
            out_BO=style.new_ones(len(style), layer.out_channels),
            in_BI=change / torch.where(style.abs() < SMALLEST_STYLE, floor, style),
            shared_OI=style.new_zeros(layer.out_channels, layer.in_channels),
        )
    return offsets


def restyled(generator: Generator, state: GeneratorState, change_BS: Tensor) -> GeneratorState:
    """Return a state with all styles changed by rows of `joined` (B or 1 rows), after the offsets that it already has."""
    own = styles(generator, state.latents_BLD)
    layers = [generator.layers[index] for index in own]
    offsets = as_offsets(generator, own, parted(change_BS.to(state.latents_BLD), layers))
    return state.composed(GeneratorState(latents_BLD=state.latents_BLD, offsets=offsets))


@torch.no_grad()
def style_spread(generator: Generator, *, samples: int = 4000, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (S,) of every style channel over random w."""
    z = torch.randn(samples, generator.style_dim, generator=torch.Generator().manual_seed(seed))
    found = joined(styles(generator, generator.repeat(generator.mapping(z.to(generator.input.input)))))
    return found.mean(0), found.std(0)
