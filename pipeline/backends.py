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
from trt_engines.parity import SEEDS, check

LOADERS: Mapping[str, str] = {
    "compile": "trt_engines.compiled:load",
    "onnxruntime": "trt_engines.onnx_runtime:load",
    "tensorrt": "trt_engines.runtime:load",
}
CANDIDATES: Mapping[str, tuple[str, ...]] = {"cpu": ("onnxruntime", "compile"), "cuda": ("tensorrt", "compile")}
"""What `auto` tries for every graph."""
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
