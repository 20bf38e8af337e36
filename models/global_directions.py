"""StyleCLIP's global directions: which style channels move a picture's CLIP embedding as a text direction says.

Shape legend: B batch, N pictures, E embedding, S style channels of all convolutions (models/style_space.py). Source: StyleCLIP section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.deltaedit import text_direction
from models.instruction import Instruction
from models.inversion import Inversion
from models.state import GeneratorState
from models.style_space import restyled, style_channels, style_layers, style_spread
from models.stylegan2 import Generator

if TYPE_CHECKING:
    from models.clip import ClipModel
    from models.pack import Pack

DEVIATIONS = 5.0
"""How far a channel is moved either way, in standard deviations of it."""
PIXELS = 100 * 64**2
"""Of the pictures that are made at once, each way."""


class StyleRelevance(nn.Module):
    """Keep what every style channel does to CLIP: `direction_SE`, unit vectors; and `std_S`, how far it spreads over random w.

    `size` and `channels` are the generator's.
    """

    direction_SE: Tensor
    std_S: Tensor

    def __init__(self, size: int = 1024, *, channels: Mapping[int, int] | None = None, text_dim: int = 512) -> None:
        super().__init__()
        count = style_channels(style_layers(size, channels))
        self.register_buffer("direction_SE", torch.zeros(count, text_dim))
        self.register_buffer("std_S", torch.ones(count))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    def change(self, direction_E: Tensor, *, beta: float) -> Tensor:
        """Return the change of the styles (S,) for a unit direction in CLIP's space (StyleCLIP eq. 6).

        Channels whose relevance is below `beta` of the largest stay; that of the largest moves by one standard deviation.
        """
        relevance_S = self.direction_SE @ direction_E
        largest = relevance_S.abs().max().clamp_min(1e-12)
        return relevance_S.where(relevance_S.abs() >= beta * largest, torch.zeros_like(relevance_S)) / largest * self.std_S


@torch.no_grad()
def fit(
    generator: Generator, clip: ClipModel, *, pictures: int = 100, seed: int = 0, report: Callable[[int, int], None] | None = None
) -> StyleRelevance:
    """Return the relevances of a generator's style channels: each is moved both ways under `pictures` random latents.

    `report` takes the channels done and their number. The mean over pictures of the difference of unit embeddings is normalised, as
    is each difference before (as released). Raises ValueError for less than one picture.
    """
    if pictures < 1:
        raise ValueError(f"pictures: expected 1 or more, found {pictures}")
    _, std_S = style_spread(generator)
    z = torch.randn(pictures, generator.style_dim, generator=torch.Generator().manual_seed(seed))
    own = generator.styles(generator.repeat(generator.mapping(z.to(std_S))))
    layers = style_layers(generator.size, generator.channels)
    places = [(layer.index, channel) for layer in layers for channel in range(layer.in_channels)]
    rows = []
    for done, ((index, channel), std) in enumerate(zip(places, std_S, strict=True)):
        rows.append(_moves(generator, clip, own, index=index, channel=channel, step=DEVIATIONS * std))
        if report is not None:
            report(done + 1, len(places))
    direction_SE = F.normalize(torch.stack(rows), dim=1)
    found = StyleRelevance(generator.size, channels=generator.channels, text_dim=direction_SE.shape[1]).to(direction_SE.device)
    found.direction_SE.copy_(direction_SE)
    found.std_S.copy_(std_S)
    return found


def _moves(generator: Generator, clip: ClipModel, own: list[Tensor], *, index: int, channel: int, step: Tensor) -> Tensor:
    """Return the mean unit difference (E,) between the embeddings with one channel of one style moved up and down."""
    differences = []
    batch = max(1, PIXELS // generator.size**2)
    for first in range(0, len(own[0]), batch):
        part = [style[first : first + batch] for style in own]
        up, down = (_with(part, index=index, channel=channel, amount=amount) for amount in (step, -step))
        made = generator.render([torch.cat(pair) for pair in zip(up, down, strict=True)]).clamp(-1, 1)
        above, below = F.normalize(clip.embed_images(made), dim=1).chunk(2)
        differences.append(F.normalize(above - below, dim=1))
    return torch.cat(differences).mean(0)


def _with(own: list[Tensor], *, index: int, channel: int, amount: Tensor) -> list[Tensor]:
    moved = own[index].clone()
    moved[:, channel] += amount
    return [*own[:index], moved, *own[index + 1 :]]


@dataclass(frozen=True, kw_only=True)
class GlobalSettings:
    """Settings of StyleCLIP's global directions. Raises ValueError.

    `alpha` is how many standard deviations the most relevant channel moves at strength 1; channels with less than `beta` times its
    relevance stay. Differs: the release's threshold is absolute.
    """

    alpha: float = 2.5
    beta: float = 0.4

    def __post_init__(self) -> None:
        if not self.alpha > 0 or not 0 <= self.beta <= 1:
            raise ValueError(f"alpha and beta: expected above 0 and a share from 0 to 1, found {self.alpha} and {self.beta}")


class GlobalDirectionEditor:
    """Edit all pictures along one direction of StyleSpace per pair of texts, times the instruction's strength."""

    Settings = GlobalSettings

    def __init__(
        self, name: str, relevance: StyleRelevance, *, generator: Generator, clip: ClipModel, settings: GlobalSettings
    ) -> None:  # fmt: skip
        self.name = name
        self.relevance = relevance
        self.generator = generator
        self.clip = clip
        self.settings = settings

    @classmethod
    def of(cls, name: str, pack: Pack, settings: GlobalSettings) -> Self:
        """Return the editor that a network of a pack is."""
        return cls(name, pack.network(name, StyleRelevance), generator=pack.generator(), clip=pack.clip(), settings=settings)

    @torch.no_grad()
    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with the direction as offsets. Raises ValueError when a text is longer than CLIP reads."""
        change_S = self.relevance.change(text_direction(self.clip, instruction)[0], beta=self.settings.beta)
        return restyled(self.generator, inversion.state, instruction.strength * self.settings.alpha * change_S[None])
