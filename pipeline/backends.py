"""What runs the networks of an edit: torch as it is (eager), torch.compile, ONNX Runtime or TensorRT, each checked against eager here.

`choose` loads one and lets it make pictures from fixed seeds before it may touch data.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch

from pipeline.config import BACKENDS, Backend, nearest
from trt_engines.graphs import BackendError, Graph, Load, Runner, Tensors

EAGER: Backend = "eager"
LOADERS: Mapping[Backend, str] = {
    "compile": "trt_engines.compiled:load",
    "onnxruntime": "trt_engines.onnx_runtime:load",
    "tensorrt": "trt_engines.runtime:load",
}
AUTO: Mapping[str, tuple[Backend, ...]] = {"cpu": ("onnxruntime",), "cuda": ("tensorrt", "compile")}
"""What `auto` tries, best first. On a CPU torch.compile takes minutes to start for no gain that was ever measured."""
TOLERANCE: Mapping[str, float] = {"cpu": 2e-3, "cuda": 1e-2}
"""Largest difference to eager, in units of the reference's largest value; one step of 8 bits is 8e-3. Eager itself rounds the factors of
its convolutions to TF32 on a GPU."""
SEEDS = (11, 12)
TIMED_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What runs, and why nothing better does."""

    name: Backend
    runners: Mapping[str, Runner] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How a backend compares with eager: largest relative difference, seconds of one batch through all graphs."""

    difference: float
    seconds: float
    eager_seconds: float


def choose(wanted: Backend, graphs: Sequence[Graph], *, device: str, batch_size: int) -> Choice:
    """Load a backend for all graphs and check it; "auto" takes the first that works and is not slower than eager.

    Raises BackendError, with the reason, where the one that is wanted cannot be used or does not compute what eager computes.
    """
    if wanted not in BACKENDS:
        raise BackendError(f"--backend {wanted}: {nearest(wanted, BACKENDS)}")
    if wanted == EAGER or not graphs:
        return Choice(name=EAGER)
    if wanted != "auto":
        return Choice(name=wanted, runners=_checked(wanted, graphs, device=device, batch_size=batch_size)[0])
    notes: list[str] = []
    for name in AUTO[device]:
        try:
            runners, checked = _checked(name, graphs, device=device, batch_size=batch_size)
        except BackendError as error:
            notes.append(str(error))
            continue
        told = f"{checked.seconds:.3g} s for a batch of {batch_size}, eager {checked.eager_seconds:.3g} s"
        if checked.seconds > checked.eager_seconds:
            notes.append(f"--backend {name}: works and is slower than eager here: {told}")
            continue
        return Choice(name=name, runners=runners, notes=(*notes, f"--backend auto takes {name}: {told}"))
    return Choice(name=EAGER, notes=(*notes, "--backend auto takes eager: nothing better works here"))


def _checked(name: Backend, graphs: Sequence[Graph], *, device: str, batch_size: int) -> tuple[dict[str, Runner], Checked]:
    try:
        load = _loader(name)
        runners: dict[str, Runner] = {graph.name: load(graph, device=device, batch_size=batch_size) for graph in graphs}
        return runners, check(graphs, runners, device=device, batch_size=batch_size)
    except BackendError as error:
        raise BackendError(f"--backend {name}: {error}") from error
    except ImportError as error:
        raise BackendError(f"--backend {name}: a library is missing: {error}; install it, or choose another backend") from error
    except Exception as error:  # a compiler or an engine raises its own kinds of error
        raise BackendError(f"--backend {name}: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")


def _loader(name: Backend) -> Load:
    module, function = LOADERS[name].split(":")
    return cast(Load, getattr(importlib.import_module(module), function))


@torch.no_grad()
def check(graphs: Sequence[Graph], runners: Mapping[str, Runner], *, device: str, batch_size: int) -> Checked:
    """Compare every graph with eager on fixed seeds, one picture and a batch. Raises BackendError on the first that differs."""
    worst = seconds = eager_seconds = 0.0
    for graph in graphs:
        runner = runners[graph.name]
        for seed, batch in zip(SEEDS, (1, batch_size), strict=True):
            inputs = graph.example(batch, seed=seed, device=device)
            difference = _difference(runner(*inputs), graph.plain(*inputs), graph=graph)
            worst = max(worst, difference)
            if not difference <= TOLERANCE[device]:  # not a number is no agreement either
                raise BackendError(
                    f"the {graph.name} differs from eager by {difference:.2g} of its largest value in a batch of {batch}, "
                    f"expected at most {TOLERANCE[device]:g}"
                )
        seconds += _seconds(runner, inputs, device=device)
        eager_seconds += _seconds(graph.plain, inputs, device=device)
    return Checked(difference=worst, seconds=seconds, eager_seconds=eager_seconds)


def _seconds(run: Callable[..., Tensors], inputs: Tensors, *, device: str) -> float:
    """Return the least time of a few runs."""
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        run(*inputs)
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


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
