"""Editors: from a generator state and an instruction to the edited state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from models.hypereditor import HyperEditor
from models.instruction import Instruction
from models.inverters import pooled
from models.state import GeneratorState

if TYPE_CHECKING:
    from models.clip import ClipModel


class Editor(Protocol):
    """Change the state of B images as an instruction says."""

    name: str

    def edit(self, state: GeneratorState, reconstruction_BCHW: Tensor, instruction: Instruction) -> GeneratorState:
        """Return the edited state; `reconstruction_BCHW` is the generator's image of `state`, so that it is made only once."""
        ...


class HyperEditorEditor:
    """Edit with HyperEditor: offsets from the reconstruction and the text direction, scaled by the instruction's strength.

    The offsets are composed with those that the state already has.
    """

    def __init__(self, name: str, hypernetwork: HyperEditor, *, clip: ClipModel) -> None:
        self.name = name
        self.hypernetwork = hypernetwork
        self._clip = clip
        self._directions: dict[tuple[str, str], Tensor] = {}

    @torch.no_grad()
    def edit(self, state: GeneratorState, reconstruction_BCHW: Tensor, instruction: Instruction) -> GeneratorState:
        """Return the state with the edit's offsets. Raises ValueError when a text is longer than CLIP reads."""
        image = pooled(reconstruction_BCHW, self.hypernetwork.input_size)
        offsets = self.hypernetwork.factors(image, self.direction(instruction.source, instruction.target).to(image))
        edit = GeneratorState(latents_BLD=state.latents_BLD, offsets=offsets).scaled(instruction.strength)
        return state.composed(edit)

    @torch.no_grad()
    def direction(self, source: str, target: str) -> Tensor:
        """Return the text direction (1, E): mean template embedding of the target minus that of the source, cached."""
        if (source, target) not in self._directions:
            embedded = self._clip.embed_texts([source, target])
            self._directions[source, target] = embedded[1:] - embedded[:1]
        return self._directions[source, target]
