"""What an inverter made of a batch of pictures: all that an editor may look at.

Shape legend: B batch, C = 3, H/W rows/columns. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch
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
    _whole: Inversion | None = field(default=None, repr=False)
    _rows: tuple[int, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.state)

    def once(self, network: object, make: Callable[[], T]) -> T:
        """Return what `make` makes for a network, made the first time that it is asked for and the same after."""
        if network not in self._kept:
            self._kept[network] = make() if self._whole is None else self._whole._gathered(network, self._rows, make)
        return cast("T", self._kept[network])

    def slice(self, start: int, stop: int) -> Inversion:
        """Return pictures `start` to `stop` (exclusive) of the batch."""
        return Inversion(
            aligned_BCHW=self.aligned_BCHW[start:stop], state=self.state.slice(start, stop), made_BCHW=self.made_BCHW[start:stop]
        )

    def take(self, rows: Sequence[int]) -> Inversion:
        """Return some pictures of the batch; what `once` makes of a picture for one such part serves the others."""
        index = torch.tensor(list(rows), device=self.made_BCHW.device)
        return Inversion(
            aligned_BCHW=self.aligned_BCHW[index], state=self.state.take(index), made_BCHW=self.made_BCHW[index],
            _whole=self, _rows=tuple(rows),
        )  # fmt: skip

    def changed_to(self, state: GeneratorState) -> Inversion:
        """Return the same pictures with another state, for an edit after an edit; shares what `once` made of the pictures."""
        changed = replace(self, state=state)
        changed._kept.update(self._kept)
        return changed

    def _gathered(self, network: object, rows: Sequence[int], make: Callable[[], T]) -> T:
        """Return what was made of single pictures before, or make it and keep it by picture where it can be divided."""
        store = cast("dict[int, object]", self._kept.setdefault(("by row", network), {}))
        if all(row in store for row in rows):
            return cast("T", _joined([store[row] for row in rows]))
        made = make()
        store.update(zip(rows, _divided(made, len(rows)), strict=False))
        return made


def joined(parts: Sequence[Inversion]) -> Inversion:
    """Return several batches as one."""
    return Inversion(
        aligned_BCHW=torch.cat([part.aligned_BCHW for part in parts]),
        state=GeneratorState.joined([part.state for part in parts]),
        made_BCHW=torch.cat([part.made_BCHW for part in parts]),
    )


def _divided(value: object, rows: int) -> list[object]:
    """Return the part of each picture; nothing where the value is not a tensor, or tensors, of as many rows."""
    if isinstance(value, Tensor):
        return [value[row : row + 1] for row in range(rows)] if len(value) == rows else []
    if isinstance(value, (tuple, list)):
        parts = [_divided(one, rows) for one in value]
        return [tuple(row) for row in zip(*parts, strict=True)] if all(parts) else []
    return []


def _joined(parts: Sequence[object]) -> object:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([cast("Tensor", part) for part in parts])
    return tuple(_joined([cast("tuple[object, ...]", part)[i] for part in parts]) for i in range(len(cast("tuple[object, ...]", first))))
