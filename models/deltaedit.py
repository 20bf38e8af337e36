"""DeltaEdit: from styles and a direction in CLIP's space to a change of the styles, learnt from pictures without any text.

Shape legend: B batch, E embedding, S style channels of all convolutions (models/style_space.py). Source: DeltaEdit section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.instruction import Instruction
from models.inversion import Inversion
from models.state import GeneratorState
from models.style_space import joined, restyled, style_layers, styles
from models.stylegan2 import Generator, Layer

if TYPE_CHECKING:
    from models.clip import ClipModel
    from models.pack import Pack

SLOPE = 0.2
LEVELS = {"coarse": (4, 8), "medium": (16, 32)}
"""Resolutions of the levels; the rest is fine."""


class _Level(nn.Module):
    """Style, condition and fusion module of one level."""

    def __init__(self, channels: int, *, text_dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.style = _maps(channels, width, depth=depth)
        self.condition = _maps(2 * text_dim, width, depth=depth)
        self.fusion = nn.Sequential(*_maps(2 * width, width, depth=depth - 1), nn.Linear(width, channels))

    def forward(self, styles_BS: Tensor, condition_BE: Tensor) -> Tensor:
        found: Tensor = self.fusion(torch.cat([self.style(styles_BS), self.condition(condition_BE)], dim=1))
        return found


def _maps(channels: int, width: int, *, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(depth):
        linear = nn.Linear(width if number else channels, width)
        nn.init.kaiming_normal_(linear.weight, a=SLOPE)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


class DeltaMapper(nn.Module):
    """Predict how styles change when the picture's CLIP embedding moves in a direction (DeltaEdit eq. 4).

    `size` and `channels` are the generator's; `mean_S` and `std_S` those of its styles. Differs: a level reads its styles as one vector,
    since their widths differ below 512 channels; styles and changes are in standard deviations; the last map has no activation; and the
    change is odd in the direction: whatever the other picture of a pair is, it is likelier to be an ordinary one, and a network that may
    learn this makes everybody ordinary. Raises ValueError.
    """

    mean_S: Tensor
    std_S: Tensor

    def __init__(
        self, size: int = 1024, *, channels: Mapping[int, int] | None = None, text_dim: int = 512, width: int = 512, depth: int = 4
    ) -> None:
        super().__init__()
        if width < 1 or depth < 2:
            raise ValueError(f"deltaedit: expected a width of 1 or more and a depth of 2 or more, found {width} and {depth}")
        self.text_dim = text_dim
        layers = style_layers(size, channels)
        self.widths = {level: sum(layer.in_channels for layer in layers if _level(layer) == level) for level in (*LEVELS, "fine")}
        self.widths = {level: count for level, count in self.widths.items() if count}
        self.levels = nn.ModuleDict(
            {level: _Level(count, text_dim=text_dim, width=width, depth=depth) for level, count in self.widths.items()}
        )
        self.register_buffer("mean_S", torch.zeros(sum(self.widths.values())))
        self.register_buffer("std_S", torch.ones(sum(self.widths.values())))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def standard(self, styles_BS: Tensor) -> Tensor:
        """Return styles in standard deviations from their mean."""
        return (styles_BS - self.mean_S) / self.std_S

    def forward(self, standard_BS: Tensor, source_BE: Tensor, delta_BE: Tensor) -> Tensor:
        """Return the change (B, S) in standard deviations; that of the opposite direction is its negative, that of none is 0.

        `standard_BS` is what `standard` returned, `source_BE` the picture's CLIP embedding and `delta_BE` where it goes, both unit vectors.
        """
        scale = self.text_dim**0.5  # inputs of about 1: what is smaller is lost beside the styles
        ways = [scale * torch.cat([source_BE, sign * delta_BE], dim=1) for sign in (1, -1)]
        parts = standard_BS.repeat(2, 1).split(list(self.widths.values()), dim=1)
        both = [level(part, torch.cat(ways)) for level, part in zip(self.levels.values(), parts, strict=True)]
        along, against = torch.cat(both, dim=1).chunk(2)
        return (along - against) / 2


def _level(layer: Layer) -> str:
    return next((level for level, sides in LEVELS.items() if layer.resolution in sides), "fine")


@dataclass(frozen=True, kw_only=True)
class DeltaEditSettings:
    """Settings of DeltaEdit's editor. Raises ValueError.

    `scale` is the length of the text direction, of which training saw 1; `gain` multiplies the change; changes below `threshold` standard
    deviations are left out (section 3.4's threshold, on the change itself and not on StyleCLIP's relevances).
    """

    scale: float = 1.0
    gain: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if not self.scale > 0 or not self.gain > 0 or not self.threshold >= 0:
            found = f"{self.scale}, {self.gain} and {self.threshold}"
            raise ValueError(f"scale, gain and threshold: expected above 0 twice and 0 or more, found {found}")


class DeltaEditEditor:
    """Edit by the change that the mapper predicts for the text direction, times the instruction's strength.

    The direction between the texts takes the place of that between pictures, which training saw (DeltaEdit section 3.4).
    """

    Settings = DeltaEditSettings

    def __init__(self, name: str, mapper: DeltaMapper, *, generator: Generator, clip: ClipModel, settings: DeltaEditSettings) -> None:
        self.name = name
        self.mapper = mapper
        self.generator = generator
        self.clip = clip
        self.settings = settings

    @classmethod
    def of(cls, name: str, pack: Pack, settings: DeltaEditSettings) -> Self:
        """Return the editor that a network of a pack is."""
        return cls(name, pack.network(name, DeltaMapper), generator=pack.generator(), clip=pack.clip(), settings=settings)

    @torch.no_grad()
    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with the change as offsets. Raises ValueError when a text is longer than CLIP reads."""
        state = inversion.state
        source_BE = F.normalize(self.clip.embed_images(inversion.made_BCHW.clamp(-1, 1)), dim=1)
        delta_1E = self.settings.scale * text_direction(self.clip, instruction)
        own_BS = self.mapper.standard(joined(styles(self.generator, state.latents_BLD)))
        change_BS = self.mapper(own_BS, source_BE, delta_1E.expand_as(source_BE))
        change_BS = change_BS.where(change_BS.abs() >= self.settings.threshold, torch.zeros_like(change_BS))
        return restyled(self.generator, state, instruction.strength * self.settings.gain * self.mapper.std_S * change_BS)


def text_direction(clip: ClipModel, instruction: Instruction) -> Tensor:
    """Return the unit vector (1, E) from the source text's unit embedding to the target text's. Raises ValueError for long texts."""
    source, target = F.normalize(clip.embed_texts([instruction.source, instruction.target]), dim=1)
    return F.normalize(target - source, dim=0)[None]
