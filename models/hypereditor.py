"""HyperEditor's hypernetwork: from an inversion and a text direction to weight offsets of the generator, in the released key layout.

Shape legend: B batch, C channels, H/W rows/columns, E text embedding, F head features, O/I output/input channels of a generator
convolution, k kernel width of an offset. Source: HyperEditor eq. 1 (heads) and eq. 5 (fusion modulation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from models.layers import PictureSize, check_picture, longest
from models.refinement import SeparableBlock
from models.resnet import DEPTHS, SHRINK, WIDTHS, ResNetTrunk
from models.state import AnyOffset
from models.stylegan2 import Layer, check_channels, layer_table


class TextScale(nn.Module):
    """Map a text direction to one non-negative factor per channel: linear, ReLU."""

    def __init__(self, text_dim: int, channels: int, *, start: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(text_dim, channels)
        nn.init.constant_(self.linear1.bias, start)

    def forward(self, direction_BE: Tensor) -> Tensor:
        """Return (B, C, 1, 1)."""
        factor: Tensor = self.linear1(direction_BE).relu()
        return factor[:, :, None, None]


class HyperEditor(ResNetTrunk):
    """Predict weight offsets for the generator layers `layers` (output indices; None: every layer but toRGB).

    `size` and `channels` are the generator's. `input_size` is the side of the pictures that `forward` takes; `inner` the inner width of
    the heads; `kernel_size` 1 is the released form (one factor per channel pair), 3 the paper's. Raises ValueError on values that do
    not fit together.
    """

    def __init__(
        self,
        size: int = 1024,
        *,
        channels: Mapping[int, int] | None = None,
        layers: Sequence[int] | None = None,
        kernel_size: int = 1,
        input_size: PictureSize = 256,
        text_dim: int = 512,
        widths: Sequence[int] = WIDTHS,
        depths: Sequence[int] = DEPTHS,
        inner: int = 256,
    ) -> None:
        super().__init__(widths=widths, depths=depths)
        if kernel_size not in (1, 3):
            raise ValueError(f"hypereditor: kernel_size must be 1 (released weights) or 3 (paper), found {kernel_size}")
        side = longest(input_size)
        if side < 32 or side & (side - 1):
            raise ValueError(f"hypereditor: input_size must be a power of two from 32 up, found {input_size}")
        self.input_size = input_size
        self.text_dim = text_dim
        self.fc_gamma = TextScale(text_dim, widths[-1], start=1.0)
        self.fc_beta = TextScale(text_dim, widths[-1], start=0.0)
        self.tuned = tuned_layers("hypereditor", layer_table(size, check_channels(size, channels)), layers)
        shape = {"inner": inner, "side": side // SHRINK, "kernel_size": kernel_size}
        self.hypernetworks = nn.ModuleDict({str(layer.index): SeparableBlock(widths[-1], layer, **shape) for layer in self.tuned})

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(
        self, reconstruction_BCHW: Tensor, direction_BE: Tensor | None, *, layers: Sequence[int] | None = None
    ) -> dict[int, Tensor]:
        """Return the offset (B, O, I, k, k) of every tuned layer, or of those in `layers`, by output index.

        `reconstruction_BCHW` is the inversion, RGB in [-1, 1], pooled to `input_size`; `direction_BE` (one row is used for the whole
        batch) is the raw text embedding of the target minus that of the source; None skips the modulation.
        """
        x = self.modulated(self.seen(reconstruction_BCHW), direction_BE)
        return {index: self.hypernetworks[str(index)](x) for index in self._chosen(layers)}

    def factors(
        self, reconstruction_BCHW: Tensor, direction_BE: Tensor | None, *, layers: Sequence[int] | None = None
    ) -> dict[int, AnyOffset]:
        """Return the same offsets without multiplying them out, which the generator takes too and runs faster."""
        return self.factors_of(self.seen(reconstruction_BCHW), direction_BE, layers=layers)

    def factors_of(self, seen_BCHW: Tensor, direction_BE: Tensor | None, *, layers: Sequence[int] | None = None) -> dict[int, AnyOffset]:
        """Return the same from what `seen` returns, which is one pass through the trunk for all directions."""
        x = self.modulated(seen_BCHW, direction_BE)
        return {index: self.head(index).factors(x) for index in self._chosen(layers)}

    def seen(self, reconstruction_BCHW: Tensor) -> Tensor:
        """Return the trunk's features (B, widths[3], H/16, W/16), before any text. Raises ValueError for pictures of another size."""
        check_picture("hypereditor", reconstruction_BCHW, self.input_size)
        return self.features(reconstruction_BCHW)

    def head(self, index: int) -> SeparableBlock:
        """Return the head of the layer with this output index."""
        head = self.hypernetworks[str(index)]
        assert isinstance(head, SeparableBlock)
        return head

    def modulated(self, seen_BCHW: Tensor, direction_BE: Tensor | None) -> Tensor:
        """Return features under a text direction (HyperEditor eq. 5); None leaves them. Raises ValueError for another text width."""
        if direction_BE is None:
            return seen_BCHW
        if direction_BE.ndim != 2 or direction_BE.shape[1] != self.text_dim:
            raise ValueError(f"hypereditor: expected text directions (B or 1, {self.text_dim}), found {tuple(direction_BE.shape)}")
        return seen_BCHW * self.fc_gamma(direction_BE) + self.fc_beta(direction_BE)

    def _chosen(self, layers: Sequence[int] | None) -> list[int]:
        tuned = [layer.index for layer in self.tuned]
        unknown = [index for index in layers or () if index not in tuned]
        if unknown:
            raise ValueError(f"hypereditor: layer {unknown[0]} has no head; tuned layers are {tuned}")
        return tuned if layers is None else list(layers)


def tuned_layers(name: str, table: Sequence[Layer], layers: Sequence[int] | None) -> tuple[Layer, ...]:
    """Return the layers that a hypernetwork tunes, by output index; None is every convolution but toRGB. Raises ValueError."""
    chosen = [layer.index for layer in table if layer.kind == "conv"] if layers is None else sorted(set(layers))
    unknown = [index for index in chosen if not 0 <= index < len(table)]
    if unknown or not chosen:
        raise ValueError(f"{name}: layers must be output indices from 0 to {len(table) - 1}, found {list(layers or ())}")
    return tuple(table[index] for index in chosen)
