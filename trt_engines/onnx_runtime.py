"""Run a graph with ONNX Runtime on the CPU, on the memory of torch tensors."""

from __future__ import annotations

import importlib.metadata

import onnxruntime
import torch
from torch import Tensor

from trt_engines.export import export
from trt_engines.graphs import BackendError, Graph, Runner, Tensors

PROVIDER = "CPUExecutionProvider"


def load(graph: Graph, *, device: str, batch_size: int) -> Runner:
    """Return a runner on the CPU; it takes any batch.

    Raises BackendError on a GPU, whose providers the package does not have, and for half precision, which it would cast forth and back.
    """
    if device != "cpu":
        raise BackendError(
            f"onnxruntime {importlib.metadata.version('onnxruntime')} runs on CPUs here and --device is {device}: its GPU package links a "
            "TensorRT of its own; take --backend tensorrt or compile on a GPU, or --device cpu"
        )
    if graph.kind is not None:
        raise BackendError(
            f"onnxruntime computes in float32 on CPUs, and graph {graph.name} is in {graph.kind}; take --backend compile or eager"
        )
    return _Session(graph)


class _Session:
    def __init__(self, graph: Graph) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # workers share cores
        self._session = onnxruntime.InferenceSession(export(graph).data, options, providers=[PROVIDER])
        self._names, self._outputs = list(graph.inputs), list(graph.outputs)

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Return new tensors that own what ONNX Runtime made."""
        given = {name: value.contiguous().numpy() for name, value in zip(self._names, inputs, strict=True)}
        return tuple(torch.from_numpy(value) for value in self._session.run(self._outputs, given))
