"""GANI's gradient modification modules: small residual networks that turn gradients of weights into corrections of weights.

Shape legend: R rows (output channel and kernel place of a weight), c width (its input channels), O/I output/input channels, k kernel width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.stylegan2 import Layer

Norm = Literal["sn", "in", "none"]
EPSILON = 1e-12  # far below the gradients, which may be 1e-8 themselves


@dataclass(frozen=True, kw_only=True)
class ModuleConfig:
    """Set the modules (GANI section 3; its Tables 7 and 8 vary `blocks`, `pre_norm` and `post_norm`).

    `slope` is that of the LeakyReLU; `factor` multiplies the standard deviation of the He-normal start. Raises ValueError.
    """

    blocks: int = 2
    pre_norm: Norm = "none"
    post_norm: Norm = "sn"
    slope: float = 0.2
    factor: float = 0.01

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"GANI modules: blocks must be 1 or more, found {self.blocks}")
        if not self.factor > 0:
            raise ValueError(f"GANI modules: factor must be above 0, found {self.factor}")


class ScaleNorm(nn.Module):
    """Bring every row to one learnable length (Nguyen and Salazar 2019), which starts at the root of the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(math.sqrt(width)))

    def forward(self, z_Rc: Tensor) -> Tensor:
        """Keep the shape; a row of zeros stays zero."""
        return z_Rc * (self.scale / z_Rc.norm(dim=1, keepdim=True).clamp_min(EPSILON))


class RowInstanceNorm(nn.Module):
    """Bring every feature to mean 0 and variance 1 over the rows of one weight (Instance Normalization, without learnable parameters)."""

    def forward(self, z_Rc: Tensor) -> Tensor:
        """Keep the shape; a feature that is the same in all rows becomes zero."""
        centred = z_Rc - z_Rc.mean(0)
        return centred * centred.square().mean(0).clamp_min(EPSILON**2).rsqrt()


class ResidualModification(nn.Module):
    """`z + W2 Post(LeakyReLU(W1 Pre(z) + b))` (GANI eq. 3 and 4, with the places where its Table 8 normalises).

    The paper normalises "the inputs to the module" and does not say whether the sum too starts from them. Here it starts from the bare z:
    a gradient is far smaller than the weights, so the first correction is near zero whatever the normalisation.
    """

    def __init__(self, width: int, *, config: ModuleConfig, source: torch.Generator) -> None:
        super().__init__()
        std = config.factor * math.sqrt(2 / width)
        bound = 1 / math.sqrt(width)
        self.slope = config.slope
        self.w1 = nn.Parameter(torch.empty(width, width).normal_(std=std, generator=source))
        self.w2 = nn.Parameter(torch.empty(width, width).normal_(std=std, generator=source))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound, generator=source))
        self.pre_norm = norm_layer(config.pre_norm, width)
        self.post_norm = norm_layer(config.post_norm, width)

    def forward(self, z_Rc: Tensor) -> Tensor:
        """Keep the shape."""
        hidden = F.leaky_relu(F.linear(self.pre_norm(z_Rc), self.w1, self.bias), self.slope)
        return z_Rc + F.linear(self.post_norm(hidden), self.w2)


def norm_layer(kind: Norm, width: int) -> nn.Module:
    """Return the normalisation of this name."""
    if kind == "sn":
        return ScaleNorm(width)
    return RowInstanceNorm() if kind == "in" else nn.Identity()


class GradientModification(nn.Module):
    """One module for each number of input channels, shared by all convolutions that have it, toRGB included.

    The paper shares modules among layers "with the number of channels c" and does not say how a kernel is laid out. Here a gradient
    (1, O, I, k, k) becomes O k k rows of I features: every convolution has input channels from the generator's few widths, also those that
    change the width and toRGB, so the modules fit all of them, and a row is one output's view of all its inputs. `source` draws the start,
    on the CPU.
    """

    def __init__(self, layers: Sequence[Layer], *, config: ModuleConfig, source: torch.Generator) -> None:
        super().__init__()
        self.widths = {layer.index: layer.in_channels for layer in layers}
        self.by_width = nn.ModuleDict()
        for width in sorted(set(self.widths.values())):
            blocks = [ResidualModification(width, config=config, source=source) for _ in range(config.blocks)]
            self.by_width[str(width)] = nn.Sequential(*blocks)

    def forward(self, gradients: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return a correction of the shape (1, O, I, k, k) for each gradient, by output index."""
        return {index: self._correction(gradient, self.by_width[str(self.widths[index])]) for index, gradient in gradients.items()}

    @staticmethod
    def _correction(gradient_1OIkk: Tensor, module: nn.Module) -> Tensor:
        by_place = gradient_1OIkk.movedim(2, -1)
        return module(by_place.reshape(-1, by_place.shape[-1])).reshape(by_place.shape).movedim(-1, 2)
