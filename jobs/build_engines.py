"""Export the graphs of a pack to ONNX and build TensorRT engines of them, so that workers of this machine find them in their cache.

    python jobs/build_engines.py --pack packs/portraits64 --output out/engines --batch_size 16
    python jobs/edit_dataset.py --pack packs/portraits64 --backend tensorrt --batch_size 16 ...

With --precision float16 (or bfloat16) the graphs round weights and activations where that is safe, and engines compute so.

The graphs are those that a run with this inverter and editor has (docs/backends.md). The last line on standard output is JSON. Exit codes:
0 every engine is in the cache, 3 the ONNX files are written and no engine was built because TensorRT cannot be used here, 1 a build failed
(the ONNX files are written), 2 wrong arguments.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonargparse

from models.pack import Pack
from models.pack_format import PackError, write_atomically
from pipeline.backed import covered
from pipeline.backends import speedup
from pipeline.precision import check as check_precision
from pipeline.precision import kind_of
from pipeline.precision_names import FLOAT32, Arithmetic
from trt_engines.export import export, opset_of
from trt_engines.graphs import BackendError, Graph, Runner
from trt_engines.parity import check
from trt_engines.runtime import load
from trt_engines.tensorrt_api import load as load_tensorrt

DONE, FAILED, WRONG, NO_TENSORRT = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to export and build.

    Args:
        pack: Folder or URL of the trained networks.
        output: Folder for the ONNX files and graphs.json, which lists them.
        batch_size: Pictures in one forward pass: that of the runs that will use the engines.
        inverter: Inverter of those runs; an encoder of the pack.
        editor: Editor of those runs; a HyperEditor of the pack.
        precision: Precision of those runs.
    """

    pack: str
    output: Path
    batch_size: int = 16
    inverter: str = "e4e"
    editor: str = "hypereditor"
    precision: Arithmetic = FLOAT32


def say(text: str) -> None:
    """Tell the user something on standard error."""
    print(f"build_engines: {text}", file=sys.stderr, flush=True)


def graphs_of(pack: Pack, options: Options) -> tuple[Graph, ...]:
    """Return the graphs of a run. Raises PackError where it has none, or only some."""
    if options.batch_size < 1:
        raise PackError(f"--batch_size {options.batch_size}: expected 1 or more")
    generator = pack.generator().halved(kind_of(options.precision))
    found = covered(pack.inverter(options.inverter), pack.editor(options.editor), generator)
    if found.eager:
        raise PackError(f"--inverter {options.inverter} --editor {options.editor}: not all of it can be exported: {'; '.join(found.eager)}")
    return found.graphs


def write_graphs(graphs: tuple[Graph, ...], output: Path) -> dict[str, object]:
    """Write one ONNX file per graph; return what graphs.json says of them. Raises BackendError."""
    listed: dict[str, object] = {}
    for graph in graphs:
        exported = export(graph)
        write_atomically(output / f"{graph.name}.onnx", exported.data)
        listed[graph.name] = {
            "file": f"{graph.name}.onnx", "sha256": exported.sha256, "opset": opset_of(graph),
            "inputs": {name: ["batch", *shape] for name, shape in graph.inputs.items()}, "outputs": list(graph.outputs),
        }  # fmt: skip
        say(f"{graph.name}: {len(exported.data) / 2**20:.1f} MiB of ONNX")
    return listed


def build(pack: Pack, options: Options) -> str:
    """Build, load and check the engines of the device's graphs; return TensorRT's version. Raises BackendError."""
    version = load_tensorrt().__version__
    check_precision(options.precision, device="cuda")
    graphs = graphs_of(pack, options)
    runners: dict[str, Runner] = {graph.name: load(graph, device="cuda", batch_size=options.batch_size) for graph in graphs}
    for graph in graphs:
        size = {"device": "cuda", "batch_size": options.batch_size}
        differs, speed = check(graph, runners[graph.name], **size), speedup(graph, runners[graph.name], **size)  # type: ignore[arg-type]
        say(f"{graph.name}: differs from eager by {differs:.2g} at most, {speed:.2f} times as fast")
    return version


def _add_engines(result: dict[str, object], options: Options) -> int:
    """Build engines and put into the result what came of it; return the exit code."""
    try:
        load_tensorrt()
    except BackendError as error:
        say(f"no engine was built: {error}. {options.output} has the ONNX files")
        result["no_engine"] = str(error)
        return NO_TENSORRT
    try:
        result["tensorrt"] = build(Pack.load(options.pack, device="cuda"), options)
    except BackendError as error:
        say(f"building failed: {error}")
        result["no_engine"] = str(error)
        return FAILED
    return DONE


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    try:
        listed = write_graphs(graphs_of(Pack.load(options.pack), options), options.output)
    except (PackError, BackendError, OSError) as error:
        print(f"build_engines: {error}", file=sys.stderr)
        return WRONG
    result: dict[str, object] = {
        "output": str(options.output), "batch_size": options.batch_size, "precision": options.precision, "graphs": listed,
    }  # fmt: skip
    code = _add_engines(result, options)
    write_atomically(options.output / "graphs.json", (json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
