"""Editors: from a generator state and an instruction to the edited state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor

from models.hypereditor import HyperEditor
from models.instruction import Instruction
from models.inversion import Inversion
from models.inverters import pooled
from models.state import GeneratorState

if TYPE_CHECKING:
    from models.clip import ClipModel
    from models.pack import Pack


class Editor(Protocol):
    """Change the state of B images as an instruction says."""

    name: str

    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the edited state."""
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

    @classmethod
    def of(cls, name: str, pack: Pack, settings: object) -> Self:
        """Return the editor that a network of a pack is; it has no settings."""
        return cls(name, pack.network(name, HyperEditor), clip=pack.clip())

    @torch.no_grad()
    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with the edit's offsets. Raises ValueError when a text is longer than CLIP reads."""
        net = self.hypernetwork
        seen = inversion.once(net, lambda: net.seen(pooled(inversion.made_BCHW, net.input_size)))
        offsets = net.factors_of(seen, self.direction(instruction.source, instruction.target).to(inversion.made_BCHW))
        state = inversion.state
        edit = GeneratorState(latents_BLD=state.latents_BLD, offsets=offsets).scaled(instruction.strength)
        return state.composed(edit)

    @torch.no_grad()
    def direction(self, source: str, target: str) -> Tensor:
        """Return the text direction (1, E): mean template embedding of the target minus that of the source, cached."""
        if (source, target) not in self._directions:
            embedded = self._clip.embed_texts([source, target])
            self._directions[source, target] = embedded[1:] - embedded[:1]
        return self._directions[source, target]
