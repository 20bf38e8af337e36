"""ReStyle's encoders: from a picture beside its present reconstruction to a step in W+, in the released key layouts.

Shape legend: B batch, L latent slots, D style width, H/W rows/columns. Source: ReStyle, sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from models import irse, resnet
from models.encoders import GradualStyleBlock
from models.layers import PictureSize, check_picture, longest

CHANNELS = 6  # the picture, then its reconstruction


class _Steps(nn.Module):
    """What both encoders do with the last feature map: one style block for every slot."""

    styles: nn.ModuleList

    def __init__(self, *, size: int, input_size: PictureSize, shared: bool) -> None:
        super().__init__()
        self.size = size
        self.input_size = input_size
        self.shared = shared
        self.n_styles = 2 * int(math.log2(size)) - 2

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, image_BCHW: Tensor, reconstruction_BCHW: Tensor, *, stage: int | None = None) -> Tensor:
        """Return the step (B, L, D) to add to the latents of `reconstruction_BCHW`; both RGB in [-1, 1] at `input_size`.

        `stage` is the progressive training stage: slots after it keep the shared w; None is the last stage, inference.
        """
        x = torch.cat([image_BCHW, reconstruction_BCHW], dim=1)
        check_picture("ReStyle", x, self.input_size, channels=CHANNELS)
        if stage is not None and not self.shared:
            raise ValueError(f"ReStyle over pSp: has no progressive stages, found stage={stage}; those are e4e's")
        last = self.n_styles if stage is None else min(stage + 1, self.n_styles)
        feature = self.trunk(x.contiguous(memory_format=torch.channels_last))
        first, *own = [style(feature) for style in self.styles[:last]]
        codes = [first, *(first + style if self.shared else style for style in own)]
        return torch.stack(codes + [first] * (self.n_styles - last), dim=1)

    def trunk(self, x_BCHW: Tensor) -> Tensor:
        """Return the feature map (B, C, H/16, W/16)."""
        raise AssertionError

    def _blocks(self, n_in: int, style_dim: int, width: int | None) -> nn.ModuleList:
        side = longest(self.input_size) // 16
        return nn.ModuleList(GradualStyleBlock(n_in, style_dim, width=width or style_dim, side=side) for _ in range(self.n_styles))


class ReStyleEncoder(_Steps):
    """ReStyle on the IR-SE50 trunk: `shared` over e4e (slot 0 is one w for all, the others add to it), else over pSp.

    `size` is the generator's, `input_size` the encoder's own, `style_width` the inner width of the style blocks (None: `style_dim`).
    Raises ValueError when the sizes do not fit.
    """

    def __init__(
        self, size: int = 1024, *, input_size: PictureSize = 256, style_dim: int = 512, shared: bool = True,
        widths: Sequence[int] = irse.WIDTHS, depths: Sequence[int] = irse.DEPTHS, style_width: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(size=size, input_size=input_size, shared=shared)
        self.input_layer = irse.input_layer(widths[0], n_in=CHANNELS)
        self.body = irse.body(widths, depths)
        self.styles = self._blocks(widths[3], style_dim, style_width)

    def trunk(self, x_BCHW: Tensor) -> Tensor:
        """Return the last feature map of the IR-SE trunk."""
        out: Tensor = self.body(self.input_layer(x_BCHW))
        return out


class ReStyleResNetEncoder(_Steps):
    """ReStyle on the ResNet-34 trunk, which its authors use beyond faces (cars 192x256, churches ...); arguments as `ReStyleEncoder`."""

    def __init__(
        self, size: int = 1024, *, input_size: PictureSize = 256, style_dim: int = 512, shared: bool = True,
        widths: Sequence[int] = resnet.WIDTHS, depths: Sequence[int] = resnet.DEPTHS, style_width: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(size=size, input_size=input_size, shared=shared)
        trunk = resnet.ResNetTrunk(CHANNELS, widths=widths, depths=depths)
        self.conv1, self.bn1, self.relu, self.body = trunk.conv1, trunk.bn1, trunk.relu, trunk.body
        self.styles = self._blocks(widths[3], style_dim, style_width)

    def trunk(self, x_BCHW: Tensor) -> Tensor:
        """Return the last feature map of the ResNet trunk."""
        out: Tensor = self.body(self.relu(self.bn1(self.conv1(x_BCHW))))
        return out
