"""What every backend has to pass before it may touch data: the pictures of fixed seeds, as eager makes them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from trt_engines.graphs import BackendError, Graph, Runner, Tensors

TOLERANCE: Mapping[str, float] = {"cpu": 2e-3, "cuda": 1e-2}
"""Largest difference to eager, in units of the reference's largest value; one step of 8 bits is 8e-3. Eager itself rounds the factors of
its convolutions to TF32 on a GPU."""
HALF_TOLERANCE: Mapping[torch.dtype, float] = {torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""The same in half precision, where eager is a half (float16) to a third of it (bfloat16) from float32 on the packs of the tests."""
SEEDS = (11, 12)


def tolerance(graph: Graph, *, device: str) -> float:
    """Return how far a graph may be from eager, of the largest value."""
    return TOLERANCE[device] if graph.kind is None else HALF_TOLERANCE[graph.kind]


@torch.no_grad()
def check(graph: Graph, runner: Runner, *, device: str, batch_size: int) -> float:
    """Compare a graph with eager on fixed seeds, one picture and a batch; return the largest difference. Raises BackendError."""
    worst = 0.0
    for seed, batch in zip(SEEDS, (1, batch_size), strict=True):
        inputs = graph.example(batch, seed=seed, device=device)
        difference, most = _difference(runner(*inputs), graph.plain(*inputs), graph=graph), tolerance(graph, device=device)
        worst = max(worst, difference)
        if not difference <= most:  # not a number is no agreement either
            raise BackendError(
                f"the {graph.name} differs from eager by {difference:.2g} of its largest value in a batch of {batch}, "
                f"expected at most {most:g}"
            )
    return worst


def _difference(found: Tensors, expected: Tensors, *, graph: Graph) -> float:
    """Return the largest difference of any output, in units of the largest value that was expected."""
    worst = 0.0
    for output, value, reference in zip(graph.outputs, found, expected, strict=True):
        if value.shape != reference.shape:
            raise BackendError(f"the {graph.name}'s {output} has shape {tuple(value.shape)}, expected {tuple(reference.shape)}")
        if not torch.isfinite(value).all():
            raise BackendError(f"the {graph.name}'s {output} has values that are not finite numbers")
        scale = max(float(reference.abs().max()), 1e-6)
        worst = max(worst, float((value.float() - reference.float()).abs().max()) / scale)
    return worst
