"""Edit: a state and an instruction to the edited picture."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from models.editors import Editor
from models.instruction import Instruction
from models.inversion import Inversion
from models.stylegan2 import Generator


@runtime_checkable
class Draws(Protocol):
    """An editor that makes the picture itself."""

    def draw(self, inversion: Inversion, instruction: Instruction) -> Tensor:
        """Return the picture of the state that `edit` would return."""
        ...


def edit(editor: Editor, generator: Generator, inversion: Inversion, *, instruction: Instruction) -> Tensor:
    """Return the pictures (B, 3, H, W), RGB about [-1, 1], of a batch of inversions changed by one instruction."""
    if isinstance(editor, Draws):
        return editor.draw(inversion, instruction)
    return generator(editor.edit(inversion, instruction))
