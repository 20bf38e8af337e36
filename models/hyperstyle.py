"""HyperStyle's hypernetwork: from a picture beside its reconstruction to weight offsets of the generator, in the released key layout.

Shape legend: B batch, C channels, H/W rows/columns, O/I output/input channels of a generator convolution, k kernel width of an offset.
Source: HyperStyle section 3.3, eq. 5 and appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from models.hypereditor import tuned_layers
from models.layers import PictureSize, check_picture, longest
from models.refinement import PlainBlock, SeparableBlock, SharedBlock, SharedKernel
from models.resnet import DEPTHS, SHRINK, WIDTHS, ResNetTrunk
from models.stylegan2 import Layer, check_channels, layer_table

CHANNELS = 6  # the picture, then its reconstruction


class HyperStyle(ResNetTrunk):
    """Predict weight offsets for the generator layers `layers` (output indices; None: every layer but toRGB).

    `size` and `channels` are the generator's. With `shared`, layers that map the widest maps to equally wide ones (512 to 512 in the
    released sizes) share one two-step kernel generator; `block` is what the others have: `plain` (released), or `separable` (the
    ablation). `kernel_size` is that of the shared kernels (3 released, 1 the paper's one value per channel pair), `plain_kernel_size`
    that of plain blocks (1 in both); the separable block always makes 3x3 kernels, toRGB layers 1x1. `inner` and `shared_inner` are
    inner widths. Raises ValueError on values that do not fit together.
    """

    def __init__(
        self,
        size: int = 1024,
        *,
        channels: Mapping[int, int] | None = None,
        layers: Sequence[int] | None = None,
        block: Literal["plain", "separable"] = "plain",
        shared: bool = True,
        kernel_size: int = 3,
        plain_kernel_size: int = 1,
        input_size: PictureSize = 256,
        widths: Sequence[int] = WIDTHS,
        depths: Sequence[int] = DEPTHS,
        inner: int = 256,
        shared_inner: int = 128,
    ) -> None:
        super().__init__(CHANNELS, widths=widths, depths=depths)
        side = longest(input_size)
        if side < 32 or side & (side - 1):
            raise ValueError(f"hyperstyle: input_size must be a power of two from 32 up, found {input_size}")
        if {kernel_size, plain_kernel_size} - {1, 3} or block not in ("plain", "separable"):
            found = f"kernel_size {kernel_size}, plain_kernel_size {plain_kernel_size}, block {block!r}"
            raise ValueError(f"hyperstyle: expected kernel sizes 1 or 3 and a block plain or separable, found {found}")
        self.input_size = input_size
        table = layer_table(size, check_channels(size, channels))
        self.tuned = tuned_layers("hyperstyle", table, layers)
        features, small = widths[-1], side // SHRINK
        alike = [layer for layer in self.tuned if shared and _is_widest(layer, table[0])]
        if alike:
            self.shared_weight_hypernet = SharedKernel(features, alike[0], kernel_size=kernel_size)

        def made(layer: Layer) -> nn.Module:
            if layer in alike:
                return SharedBlock(features, inner=shared_inner, side=small)
            if layer.kind == "rgb" or block == "separable":
                return SeparableBlock(features, layer, inner=inner, side=small, kernel_size=3)
            return PlainBlock(features, layer, inner=inner, side=small, kernel_size=plain_kernel_size)

        self.refinement_blocks = nn.ModuleDict({str(layer.index): made(layer) for layer in self.tuned})

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, image_BCHW: Tensor, reconstruction_BCHW: Tensor) -> dict[int, Tensor]:
        """Return the offset (B, O, I, k, k) of every tuned layer by output index; k is 1 where one value holds for the whole kernel.

        Both pictures are RGB in [-1, 1] at `input_size`. Refinement adds what later passes return (HyperStyle eq. 6).
        """
        x = torch.cat([image_BCHW, reconstruction_BCHW], dim=1)
        check_picture("hyperstyle", x, self.input_size, channels=CHANNELS)
        features = self.features(x)
        offsets: dict[int, Tensor] = {}
        for layer in self.tuned:
            block = self.refinement_blocks[str(layer.index)]
            made = block(features)
            offsets[layer.index] = self.shared_weight_hypernet(made) if isinstance(block, SharedBlock) else made
        return offsets


def _is_widest(layer: Layer, first: Layer) -> bool:
    """Say whether a layer maps maps as wide as the first layer's to equally wide ones."""
    return layer.kind == "conv" and layer.in_channels == layer.out_channels == first.in_channels
