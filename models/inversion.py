"""What an inverter made of a batch of pictures: all that an editor may look at.

Shape legend: B batch, C = 3, H/W rows/columns. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.state import GeneratorState


@dataclass(frozen=True, kw_only=True, eq=False)
class Inversion:
    """Aligned pictures, the states found for them, and the pictures that the generator makes of those, each computed once."""

    aligned_BCHW: Tensor
    state: GeneratorState
    made_BCHW: Tensor

    def __len__(self) -> int:
        return len(self.state)

    def slice(self, start: int, stop: int) -> Inversion:
        """Return pictures `start` to `stop` (exclusive) of the batch."""
        return Inversion(
            aligned_BCHW=self.aligned_BCHW[start:stop], state=self.state.slice(start, stop), made_BCHW=self.made_BCHW[start:stop]
        )
