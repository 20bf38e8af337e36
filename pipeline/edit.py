"""Edit: a state and an instruction to the edited picture."""

from __future__ import annotations

from torch import Tensor

from models.editors import Editor
from models.instruction import Instruction
from models.inversion import Inversion
from models.stylegan2 import Generator


def edit(editor: Editor, generator: Generator, inversion: Inversion, *, instruction: Instruction) -> Tensor:
    """Return the pictures (B, 3, H, W), RGB about [-1, 1], of a batch of inversions changed by one instruction."""
    return generator(editor.edit(inversion, instruction))
