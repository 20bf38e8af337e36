"""Measure every backend against eager, graph by graph, and what `--backend auto` makes of them. Prints JSON.

python -m benchmarks.backends [--backends '[onnxruntime, compile]'] [--batch 16] [--instructions 4] [--precision bfloat16] [--device cuda]

`NAME_GRAPH` is eager's time over the backend's, medians of runs that take turns; a backend that cannot run here is said and left out. Both
are in `precision`; `precision_GRAPH` is eager's time in float32 over its time in that. `encoder_hypernetwork` is the same as `NAME_GRAPH`
for what an edit by several instructions runs before its generator, the encoder and the trunk once and the heads for each, each by what is
fastest here, eager included: what `auto` takes. `encoder_hypernetwork_x1` is that of one instruction.
Exit code 1 below a floor of benchmarks/floors.yaml.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import jsonargparse
import torch

from benchmarks.measure import conclude, ratio, say
from models.pack import Pack
from pipeline.backed import covered
from pipeline.backend_names import COMPILED
from pipeline.backends import CANDIDATES, WORTH, load_checked
from pipeline.methods import lay_out
from pipeline.precision import kind_of
from pipeline.precision_names import FLOAT32, Arithmetic
from trt_engines.graphs import BackendError, Graph, Runner, Tensors

BEFORE_THE_GENERATOR = ("encoder", "trunk", "heads")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        backends: Which; by default those that `--backend auto` tries on the device.
        batch: Pictures at a time.
        instructions: Instructions per picture: heads run so many times, the rest of an inversion once.
        rounds: Runs of each form.
        threads: Threads of torch.
        device: cpu or cuda.
        precision: float32, bfloat16 or float16.
        pack: Pack whose networks run.
    """

    backends: tuple[str, ...] = ()
    batch: int = 16
    instructions: int = 4
    rounds: int = 9
    threads: int = 2
    device: str = "cpu"
    precision: Arithmetic = FLOAT32
    pack: str = "packs/portraits64"


def graphs_of(options: Options, precision: str) -> dict[str, Graph]:
    """Return the graphs of an edit with HyperEditor after e4e, by name."""
    pack = Pack.load(options.pack, device=options.device)
    pack.generator().halved(kind_of(precision))
    inverter, editor = pack.inverter("e4e"), pack.editor("hypereditor")
    for method in (inverter, editor):
        lay_out(method)  # as in a run: eager is measured at its best
    return {graph.name: graph for graph in covered(inverter, editor, pack.generator()).graphs}


def measured(options: Options) -> dict[str, float]:
    """Return every figure."""
    full = graphs_of(options, FLOAT32)
    graphs, found = full if options.precision == FLOAT32 else graphs_of(options, options.precision), dict[str, float]()
    inputs = {name: graph.example(options.batch, device=options.device) for name, graph in full.items()}
    if options.precision != FLOAT32:
        found |= {f"precision_{name}": compared(graph, graphs[name].plain, inputs[name], options) for name, graph in full.items()}
    best: dict[str, tuple[float, Runner]] = {}
    for backend in options.backends or CANDIDATES[options.device]:
        for name, graph in graphs.items():
            start = time.perf_counter()
            try:
                runner = load_checked(backend, graph, device=options.device, batch_size=options.batch)
            except BackendError as error:
                say(f"{error}")
                continue
            speed = compared(graph, runner, inputs[name], options)
            found[f"{backend}_{name}"], found[f"{backend}_{name}_start_s"] = speed, time.perf_counter() - start
            say(f"{backend}, {name}: {speed:.2f} times as fast as eager")
            if speed > max(WORTH, best.get(name, (0.0,))[0]):
                best[name] = speed, runner
    fastest = {name: runner for name, (_, runner) in best.items()}
    found["encoder_hypernetwork"] = together(graphs, fastest, inputs, options)
    found["encoder_hypernetwork_x1"] = together(graphs, fastest, inputs, replace(options, instructions=1))
    return found


def compared(graph: Graph, runner: Runner, inputs: Tensors, options: Options) -> float:
    """Return eager's time over a runner's."""
    with torch.no_grad():
        return ratio(lambda: graph.plain(*inputs), lambda: runner(*inputs), rounds=options.rounds)


def together(graphs: Mapping[str, Graph], best: Mapping[str, Runner], inputs: Mapping[str, Tensors], options: Options) -> float:
    """Return eager's time over that of the best runners for an inversion and the hypernetwork's part of its edits."""

    def run(runners: Mapping[str, Runner]) -> None:
        for name in BEFORE_THE_GENERATOR:
            for _ in range(options.instructions if name == "heads" else 1):
                runners.get(name, graphs[name].plain)(*inputs[name])

    with torch.no_grad():
        return ratio(lambda: run({}), lambda: run(best), rounds=options.rounds)


def main() -> int:
    """Measure; return 1 when a figure misses its floor, 2 for a backend that there is not."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    if unknown := [name for name in options.backends if name not in COMPILED]:
        print(f"backends: --backends {unknown[0]}: expected some of {', '.join(COMPILED)}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    found = measured(options)
    about = {"device": options.device, "precision": options.precision}
    return conclude("backends", found, about=about, judged=options.device == "cpu" and options.precision == FLOAT32)


if __name__ == "__main__":
    sys.exit(main())
