"""Fixed batch sizes for runners that are made for certain shapes: pad up to the next one, split what is larger than the largest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trt_engines.graphs import Runner, Tensors


class Padded:
    """Run any batch with a runner for the batches `sizes`; rows that are added repeat the last one and are cut off again."""

    def __init__(self, run: Runner, *, sizes: Sequence[int]) -> None:
        self._run = run
        self._sizes = sorted(set(sizes))

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Return the outputs for the batch that came in."""
        largest = self._sizes[-1]
        parts = [self._one(part) for part in zip(*(value.split(largest) for value in inputs), strict=True)]
        return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True)) if len(parts) > 1 else parts[0]

    def _one(self, inputs: Tensors) -> Tensors:
        batch = inputs[0].shape[0]
        size = next(size for size in self._sizes if size >= batch)
        missing = size - batch
        full = tuple(torch.cat([value, value[-1:].expand(missing, *value.shape[1:])]) for value in inputs) if missing else inputs
        return tuple(value[:batch] for value in self._run(*full))
