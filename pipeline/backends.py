"""What runs the networks of an edit: torch as it is (eager), torch.compile, ONNX Runtime or TensorRT, each checked against eager here.

`choose` loads what is wanted and lets it make pictures from fixed seeds before it may touch data.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch

from pipeline.backend_names import AUTO, EAGER, canonical, mix, per_graph
from trt_engines.graphs import BackendError, Graph, Load, Runner, Tensors

LOADERS: Mapping[str, str] = {
    "compile": "trt_engines.compiled:load",
    "onnxruntime": "trt_engines.onnx_runtime:load",
    "tensorrt": "trt_engines.runtime:load",
}
CANDIDATES: Mapping[str, tuple[str, ...]] = {"cpu": ("onnxruntime", "compile"), "cuda": ("tensorrt", "compile")}
"""What `auto` tries for every graph."""
TOLERANCE: Mapping[str, float] = {"cpu": 2e-3, "cuda": 1e-2}
"""Largest difference to eager, in units of the reference's largest value; one step of 8 bits is 8e-3. Eager itself rounds the factors of
its convolutions to TF32 on a GPU."""
HALF_TOLERANCE: Mapping[torch.dtype, float] = {torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""The same in half precision, where eager is a half (float16) to a third of it (bfloat16) from float32 on the packs of the tests."""
SEEDS = (11, 12)
TIMED_RUNS = 5
WORTH = 1.05
"""`auto` takes a backend for a graph that is this many times as fast as eager: less may be chance."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What runs, as `--backend` would say it, and why nothing better does; graphs without a runner are eager."""

    name: str
    runners: Mapping[str, Runner] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose(wanted: str, graphs: Sequence[Graph], *, device: str, batch_size: int) -> Choice:
    """Load a backend for each graph and check it; `auto` takes for each what is fastest here, eager included.

    Raises BackendError, with the reason, where one that is wanted cannot be used or does not compute what eager computes.
    """
    if wanted == AUTO:
        return _fastest(graphs, device=device, batch_size=batch_size)
    try:
        names = per_graph(wanted)
    except ValueError as error:
        raise BackendError(f"--backend {wanted}: {error}") from None
    asked = [(graph, names[graph.name]) for graph in graphs if graph.name in names]
    absent = [name for name in names if "=" in wanted and name not in {graph.name for graph in graphs}]
    notes = (f"--backend {wanted}: this run has no graph for {', '.join(absent)}, which is said for nothing",) if absent else ()
    runners: dict[str, Runner] = {graph.name: load_checked(name, graph, device=device, batch_size=batch_size) for graph, name in asked}
    return Choice(name=wanted if runners else EAGER, runners=runners, notes=notes)


def _fastest(graphs: Sequence[Graph], *, device: str, batch_size: int) -> Choice:
    """Try every candidate on every graph."""
    notes: list[str] = []
    best: dict[str, tuple[float, str, Runner]] = {}
    for name in CANDIDATES[device]:
        for graph in graphs:
            try:
                runner = load_checked(name, graph, device=device, batch_size=batch_size)
            except BackendError as error:
                notes.append(str(error))
                continue
            speed = speedup(graph, runner, device=device, batch_size=batch_size)
            if speed < WORTH:
                notes.append(f"--backend {name}: {graph.name} works and is no faster than eager here: {speed:.2f} times its speed")
            elif graph.name not in best or speed > best[graph.name][0]:
                best[graph.name] = speed, name, runner
    chosen = canonical(mix({graph: name for graph, (_, name, _) in best.items()}))
    told = ", ".join(f"{graph} {speed:.2f} times as fast as eager" for graph, (speed, _, _) in best.items())
    notes.append(f"--backend auto takes {chosen}" + (f": {told}" if told else ": nothing better works here"))
    return Choice(name=chosen, runners={graph: runner for graph, (_, _, runner) in best.items()}, notes=tuple(dict.fromkeys(notes)))


def load_checked(name: str, graph: Graph, *, device: str, batch_size: int) -> Runner:
    """Return a graph's runner that computes what eager computes. Raises BackendError with the reason."""
    try:
        runner = _loader(name)(graph, device=device, batch_size=batch_size)
        check(graph, runner, device=device, batch_size=batch_size)
    except BackendError as error:
        raise BackendError(f"--backend {name}: {error}") from error
    except ImportError as error:
        raise BackendError(f"--backend {name}: a library is missing: {error}; install it, or choose another backend") from error
    except Exception as error:  # a compiler or an engine raises its own kinds of error
        raise BackendError(f"--backend {name}: {type(error).__name__}: {_first_line(error)}") from error
    return runner


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")


def _loader(name: str) -> Load:
    module, function = LOADERS[name].split(":")
    return cast(Load, getattr(importlib.import_module(module), function))


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


@torch.no_grad()
def speedup(graph: Graph, runner: Runner, *, device: str, batch_size: int) -> float:
    """Return eager's time over the runner's: the least of runs that take turns, after one that warms both up."""
    inputs = graph.example(batch_size, seed=SEEDS[-1], device=device)
    turns = [tuple(_seconds(run, inputs, device=device) for run in (graph.plain, runner)) for _ in range(TIMED_RUNS + 1)][1:]
    eager_s, seconds = (min(times) for times in zip(*turns, strict=True))
    return eager_s / seconds


def _seconds(run: Callable[..., Tensors], inputs: Tensors, *, device: str) -> float:
    start = time.perf_counter()
    run(*inputs)
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
