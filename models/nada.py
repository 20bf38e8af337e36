"""StyleGAN-NADA as an editor: a generator fine-tuned towards a text is the untouched one with the same weight offsets for every picture.

NADA's training (training/kinds/nada.py) moves the convolutions' weights and nothing else, so the fine-tuned generator is exactly
`theta * (1 + offset)` with one offset per weight, and composes with an inverter's offsets like any other edit.

Shape legend: O/I output/input channels of a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from models.instruction import Instruction
from models.inversion import Inversion
from models.state import GeneratorState
from models.stylegan2 import Generator, StyledConv, check_channels, layer_table

if TYPE_CHECKING:
    from models.pack import Pack

SMALLEST = 1e-7
LARGEST = 60_000.0
"""What half precision, in which packs are kept, can hold."""


class NadaOffsets(nn.Module):
    """Offsets (1, O, I, 3, 3) of every convolution but toRGB, for several target texts; `size` and `channels` are the generator's."""

    def __init__(self, *, texts: Sequence[str], size: int = 1024, channels: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.texts = tuple(texts)
        self.layers = [layer for layer in layer_table(size, check_channels(size, channels)) if layer.kind == "conv"]
        for text in range(len(texts)):
            for layer in self.layers:
                shape = (1, layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
                self.register_buffer(f"offset_{text}_{layer.index}", torch.zeros(shape))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the constructor arguments that a pack stores."""
        return cls(**config)  # type: ignore[arg-type]

    @classmethod
    def between(cls, original: Generator, tuned: Mapping[str, Generator]) -> Self:
        """Return what fine-tuned generators, by target text, differ by. Raises ValueError where more than convolutions differs."""
        found = cls(texts=list(tuned), size=original.size, channels=original.channels)
        for which, (text, generator) in enumerate(tuned.items()):
            _check_rest(original, generator, text)
            pairs = zip(_convolutions(original), _convolutions(generator), strict=True)
            for layer, (before, after) in zip(found.layers, pairs, strict=True):
                found.get_buffer(f"offset_{which}_{layer.index}").copy_(_ratio(before, after))
        return found

    def forward(self, text: str) -> dict[int, Tensor]:
        """Return the offsets of a target text by output index."""
        which = self.texts.index(text)
        return {layer.index: self.get_buffer(f"offset_{which}_{layer.index}") for layer in self.layers}


class NadaEditor:
    """Edit every picture by the offsets of the instruction's target; the source text is not read."""

    def __init__(self, name: str, offsets: NadaOffsets) -> None:
        self.name = name
        self.offsets = offsets

    @classmethod
    def of(cls, name: str, pack: Pack, settings: object) -> Self:
        """Return the editor that a network of a pack is; it has no settings."""
        return cls(name, pack.network(name, NadaOffsets))

    @torch.no_grad()
    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with the fine-tuned generator's offsets. Raises ValueError for a target text that there is none for."""
        if instruction.target not in self.offsets.texts:
            raise ValueError(f"{self.name} has no generator for {instruction.target!r}; it has {', '.join(map(repr, self.offsets.texts))}")
        state = inversion.state
        edit = GeneratorState(latents_BLD=state.latents_BLD, offsets=self.offsets(instruction.target)).scaled(instruction.strength)
        return state.composed(edit)


def _convolutions(generator: Generator) -> list[Tensor]:
    return [module.conv.weight.detach() for module in generator.modules() if isinstance(module, StyledConv)]


def _ratio(before_1OIkk: Tensor, after_1OIkk: Tensor) -> Tensor:
    """Return the offset between two weights, nothing where the first is nothing."""
    safe = torch.where(before_1OIkk.abs() < SMALLEST, torch.inf, before_1OIkk)
    return ((after_1OIkk - before_1OIkk) / safe).clamp(-LARGEST, LARGEST)


def _check_rest(original: Generator, tuned: Generator, text: str) -> None:
    convolutions = {f"{name}.conv.weight" for name, module in original.named_modules() if isinstance(module, StyledConv)}
    after = tuned.state_dict()
    for name, value in original.state_dict().items():
        if name not in convolutions and not torch.allclose(value, after[name], rtol=1e-2, atol=1e-5):
            raise ValueError(f"generator of {text!r}: {name} differs from the original's, and only weights of convolutions can be offsets")
