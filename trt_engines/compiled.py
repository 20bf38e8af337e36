"""Run a graph with torch.compile, on a GPU as CUDA graphs."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor

from trt_engines.batching import Padded
from trt_engines.graphs import Graph, Runner, Tensors


def load(graph: Graph, *, device: str, batch_size: int) -> Runner:
    """Return a runner for `batch_size`, to which smaller batches are padded: a second shape would compile again for minutes.

    Nothing is compiled before the first call, which raises what torch.compile raises where it finds no compiler.
    """
    return Padded(_Compiled(graph, device=device), sizes=[batch_size])


class _Compiled:
    def __init__(self, graph: Graph, *, device: str) -> None:
        mode = "reduce-overhead" if device != "cpu" else "default"
        # Channels last: convolutions of a compiled graph are faster by a twentieth. A copy, since eager stays the reference.
        module = copy.deepcopy(graph.module).to(memory_format=torch.channels_last)
        self._module = torch.compile(module, mode=mode, dynamic=False, fullgraph=True)

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Return copies: a CUDA graph writes into the same memory at its next run."""
        torch.compiler.cudagraph_mark_step_begin()
        made = cast("Tensor | Tensors", self._module(*(_laid_out(value) for value in inputs)))
        return tuple(value.clone() for value in (made if isinstance(made, tuple) else (made,)))


def _laid_out(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last if value.ndim == 4 else torch.contiguous_format)
