"""From a graph to ONNX: dynamic batch, static weights, and bytes that depend on nothing but what is computed.

An export takes seconds to minutes, so its result is kept in the cache folder, keyed by weights, code and the exporter's versions.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.metadata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from models.pack_format import cache_folder, write_atomically
from trt_engines.graphs import BackendError, Graph

OPSET = 18
BFLOAT16_OPSET = 22
"""The first one whose convolutions take bfloat16."""
EXAMPLE_BATCH = 2  # 1 would be taken for a constant
EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")
CODE = ("models", "trt_engines")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX model in canonical bytes, and their sha256."""

    data: bytes
    sha256: str


def export(graph: Graph, *, folder: Path | None = None) -> Exported:
    """Return the ONNX of a graph, from `folder` (None: the cache folder) where it was exported before. Raises BackendError."""
    folder = folder or onnx_folder()
    path = folder / f"{graph.name}-{_source_key(graph)}.onnx"
    known = path.with_suffix(".sha256")
    if path.is_file() and known.is_file():
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == known.read_text():
            return Exported(data=data, sha256=known.read_text())
    data = trace(graph)
    digest = hashlib.sha256(data).hexdigest()
    write_atomically(path, data)
    write_atomically(known, digest.encode())
    return Exported(data=data, sha256=digest)


def onnx_folder() -> Path:
    """Return where exported graphs are kept: beside the packs in the cache folder."""
    return cache_folder().parent / "onnx"


def trace(graph: Graph) -> bytes:
    """Export a graph on the CPU with a dynamic batch and return canonical bytes. Raises BackendError."""
    module = copy.deepcopy(graph.module).cpu().eval().requires_grad_(False)
    batch = torch.export.Dim("batch")
    examples = tuple(torch.zeros(EXAMPLE_BATCH, *shape) for shape in graph.inputs.values())
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns of its own use of torch
            program = torch.onnx.export(
                module, examples, dynamo=True, opset_version=opset_of(graph), verbose=False,
                input_names=list(graph.inputs), output_names=list(graph.outputs),
                dynamic_shapes=tuple({0: batch} for _ in examples),
            )  # fmt: skip
    except Exception as error:  # the exporter raises whatever the part of torch raises that it stumbled over
        raise BackendError(f"graph {graph.name}: torch cannot export it to ONNX: {type(error).__name__}: {error}") from error
    assert program is not None
    return canonical(program.model_proto)


def opset_of(graph: Graph) -> int:
    """Return the version of ONNX's operators that a graph is exported in."""
    return BFLOAT16_OPSET if graph.kind == torch.bfloat16 else OPSET


def canonical(model: onnx.ModelProto) -> bytes:
    """Return a model's bytes without what is not computed: stack traces, comments, versions of the exporter, shapes in between."""
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    kept.ClearField("producer_name")
    kept.ClearField("producer_version")
    kept.graph.ClearField("value_info")
    graph = kept.graph
    for part in (kept, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        for field in ("doc_string", "metadata_props"):
            if field in part.DESCRIPTOR.fields_by_name:
                part.ClearField(field)
    return kept.SerializeToString(deterministic=True)


def _source_key(graph: Graph) -> str:
    """Return a digest of all that an export depends on: weights, structure, shapes, code and versions."""
    digest = hashlib.sha256()
    for text in (repr(graph.module), repr(dict(graph.inputs)), repr(graph.outputs), str(opset_of(graph)), _code_digest()):
        digest.update(text.encode() + b"\0")
    for name, value in sorted(graph.module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@functools.cache
def _code_digest() -> str:
    root = Path(__file__).parents[1]
    versions = [f"{name}={importlib.metadata.version(name)}" for name in EXPORTERS]
    files: Iterable[Path] = (path for folder in CODE for path in sorted((root / folder).glob("*.py")))
    digest = hashlib.sha256(" ".join(versions).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
