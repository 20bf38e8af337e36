"""What is exported: the same numbers as torch, operators that TensorRT takes, and bytes that depend on nothing but the computation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from models.hypereditor import HyperEditor
from models.pack import Pack
from tests.models.small_pack import CONFIGS
from tests.trt_engines.conftest import GRAPHS, toy
from tests.trt_engines.supported import assert_supported
from trt_engines.editing_generator import OffsetVectors, Trunk, shared_offsets
from trt_engines.export import export, trace
from trt_engines.graphs import BackendError, Graph
from trt_engines.onnx_runtime import load

PACKS = ("small", "portraits64")
TOLERANCE = 2e-5
"""Of the largest value: float32 sums in another order, through some twenty layers."""
FLOAT = onnx.TensorProto.FLOAT

every_graph = pytest.mark.parametrize(("pack", "name"), [(pack, name) for pack in PACKS for name in GRAPHS])
Graphs = Mapping[str, Mapping[str, Graph]]


def model(graph: Graph) -> onnx.ModelProto:
    return onnx.load_from_string(export(graph).data)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@every_graph
def test_onnx_runtime_computes_what_torch_computes(graphs: Graphs, pack: str, name: str) -> None:
    graph = graphs[pack][name]
    run = load(graph, device="cpu", batch_size=3)
    for batch in (1, 3):
        inputs = graph.example(batch, seed=batch)
        for found, expected in zip(run(*inputs), graph.plain(*inputs), strict=True):
            assert found.shape == expected.shape and relative(found, expected) < TOLERANCE


def test_trunk_and_heads_share_no_weight_and_leave_the_hypernetwork_whole(packs: Mapping[str, Pack]) -> None:
    net = packs["small"].network("hypereditor", HyperEditor)
    whole = set(net.state_dict())
    parts = [{name.removeprefix("hypernetwork.") for name in kind(net).state_dict()} for kind in (Trunk, OffsetVectors)]
    assert set(net.state_dict()) == whole == parts[0] | parts[1] and not parts[0] & parts[1] and min(map(len, parts)) > 5
    assert next(Trunk(net).parameters()) is next(net.parameters())


@torch.no_grad()
@pytest.mark.parametrize("pack", PACKS)
def test_every_picture_of_a_batch_has_a_strength_of_its_own(graphs: Graphs, pack: str) -> None:
    graph = graphs[pack]["generator"]
    latents, _, outs, ins = graph.example(3)
    strengths = torch.tensor([[0.0], [-1.0], [2.4]])
    found = graph.module(latents, strengths, outs, ins)
    for row in range(3):
        one = [value[row : row + 1] for value in (latents, strengths, outs, ins)]
        assert relative(found[row], graph.plain(*one)[0][0]) < TOLERANCE
    # The test would pass on pictures that no strength moves.
    assert relative(graph.module(latents, strengths.roll(1), outs, ins), found) > 100 * TOLERANCE


@every_graph
def test_tensorrt_supports_every_operator(graphs: Graphs, pack: str, name: str) -> None:
    assert_supported(model(graphs[pack][name]))


@every_graph
def test_weights_are_constants_and_only_the_batch_is_dynamic(graphs: Graphs, pack: str, name: str) -> None:
    graph = graphs[pack][name]
    found = model(graph)
    constants = {value.name for value in found.graph.initializer}
    convolutions = [node for node in found.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert convolutions and all(node.input[1] in constants for node in convolutions)
    assert [value.name for value in found.graph.input] == list(graph.inputs)
    assert [value.name for value in found.graph.output] == list(graph.outputs)
    for value in (*found.graph.input, *found.graph.output):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch" and all(dim.dim_value > 0 for dim in others) and value.type.tensor_type.elem_type == FLOAT


def test_two_exports_are_equal_and_hold_no_trace_of_the_code(graphs: Graphs) -> None:
    graph = graphs["small"]["encoder"]
    data = export(graph).data
    assert trace(graph) == data
    assert b"encoders.py" not in data and b"/models" not in data and b"stack_trace" not in data and b"pytorch" not in data


def test_a_changed_weight_changes_the_bytes() -> None:
    graph = toy()
    changed = replace(graph, module=copy.deepcopy(graph.module))
    with torch.no_grad():
        next(changed.module.parameters())[0, 0, 0, 0] += 1e-3
    assert trace(changed) != trace(graph)


def test_an_export_is_kept_and_a_damaged_file_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = toy()
    first = export(graph, folder=tmp_path)
    (path,) = tmp_path.glob("*.onnx")
    with monkeypatch.context() as patch:
        patch.setattr("trt_engines.export.trace", lambda graph: pytest.fail("exported again"))
        assert export(graph, folder=tmp_path) == first
    path.write_bytes(first.data[:-1])
    assert export(graph, folder=tmp_path) == first and path.read_bytes() == first.data
    assert export(toy(seed=1), folder=tmp_path).sha256 != first.sha256


def test_what_torch_cannot_export_is_refused_by_name() -> None:
    class Deciding(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if image.sum() > 0 else -image

    with pytest.raises(BackendError, match="graph encoder: torch cannot export it to ONNX: "):
        trace(replace(toy(), module=Deciding()))


@pytest.mark.parametrize(
    ("more", "said"), [({"kernel_size": 3}, r"layer 0 makes 3 x 3 kernels"), ({"layers": [0, 1]}, r"layer 1 tunes toRGB")]
)
def test_offsets_that_are_kernels_of_their_own_are_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shared_offsets(HyperEditor.from_config({**CONFIGS["hypereditor"], **more}))


def test_onnx_runtime_refuses_a_gpu() -> None:
    with pytest.raises(BackendError, match="runs on CPUs here and --device is cuda.*--backend tensorrt or compile"):
        load(toy(), device="cuda", batch_size=1)
