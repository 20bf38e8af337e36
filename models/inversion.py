"""What an inverter made of a batch of pictures: all that an editor may look at.

Shape legend: B batch, C = 3, H/W rows/columns. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from torch import Tensor

from models.state import GeneratorState

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Inversion:
    """Aligned pictures, the states found for them, and the pictures that the generator makes of those, each computed once.

    So is what editors make of the pictures whatever the instruction says: `once` keeps it for the instructions that follow.
    """

    aligned_BCHW: Tensor
    state: GeneratorState
    made_BCHW: Tensor
    _kept: dict[object, object] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.state)

    def once(self, network: object, make: Callable[[], T]) -> T:
        """Return what `make` makes for a network, made the first time that it is asked for and the same after."""
        if network not in self._kept:
            self._kept[network] = make()
        return cast("T", self._kept[network])

    def slice(self, start: int, stop: int) -> Inversion:
        """Return pictures `start` to `stop` (exclusive) of the batch."""
        return Inversion(
            aligned_BCHW=self.aligned_BCHW[start:stop], state=self.state.slice(start, stop), made_BCHW=self.made_BCHW[start:stop]
        )
