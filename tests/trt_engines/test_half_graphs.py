"""Graphs in half precision: near float32's, finite on whatever they are given, of types that strongly typed engines take."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from models.hypereditor import HyperEditor
from models.pack import Pack
from models.perceptual import PerceptualDistance
from models.state import FactorisedOffset, dense
from models.stylegan2 import Generator
from pipeline.backends import choose, load_checked
from tests.trt_engines.conftest import GRAPHS, graphs_of
from tests.trt_engines.supported import SUPPORTED, assert_supported
from trt_engines.editing_generator import EditingGenerator
from trt_engines.export import BFLOAT16_OPSET, OPSET, export
from trt_engines.graphs import BackendError, Graph, generator_graph
from trt_engines.half import Affine, with_affine_norms
from trt_engines.parity import HALF_TOLERANCE

KINDS = {"fp16": torch.float16, "bf16": torch.bfloat16}
PACKS = ("small", "portraits64")
PSNR_DB = {"fp16": 65.0, "bf16": 48.0}
LPIPS = {"fp16": 1e-4, "bf16": 2e-3}
"""How far pictures of the generator's graph may be from float32's, under random offsets that are larger than a trained editor's."""
NETWORKS = {"fp16": 4e-3, "bf16": 2.5e-2}
"""How far the other graphs may be from float32, of the largest value."""
ONNX = {TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16", TensorProto.INT64: "INT64"}

Halves = Mapping[tuple[str, str], Mapping[str, Graph]]
every_half = pytest.mark.parametrize("kind", KINDS)
every_pack = pytest.mark.parametrize("pack", PACKS)
every_graph = pytest.mark.parametrize("name", GRAPHS)


@pytest.fixture(scope="module")
def halves(packs: Mapping[str, Pack]) -> Halves:
    """Return the graphs of both packs in both precisions, of networks that no other test has."""
    return {(pack, kind): graphs_of(Pack.load(packs[pack].path), KINDS[kind]) for pack in PACKS for kind in KINDS}


def made(graph: Graph, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    found = graph.module(*inputs)
    return found if isinstance(found, tuple) else (found,)


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@every_half
@every_pack
@every_graph
def test_a_half_graph_is_near_float32_and_near_eager_in_half_precision(
    graphs: Mapping[str, Mapping[str, Graph]], halves: Halves, pack: str, kind: str, name: str
) -> None:
    full, half = graphs[pack][name], halves[pack, kind][name]
    inputs = full.example(4, seed=2)
    for found, eager, reference in zip(made(half, inputs), half.plain(*inputs), full.plain(*inputs), strict=True):
        assert found.dtype == eager.dtype == torch.float32
        assert apart(found, eager) < HALF_TOLERANCE[KINDS[kind]]
        if name != "generator":
            assert 0 < apart(found, reference) < NETWORKS[kind]
            continue
        db = 10 * torch.log10((reference.amax() - reference.amin()).square() / (found - reference).square().mean((1, 2, 3)))
        assert float(db.min()) > PSNR_DB[kind]
        scale = reference.abs().max()
        assert float(PerceptualDistance()(found / scale, reference / scale).max()) < LPIPS[kind]


@torch.no_grad()
@every_half
@pytest.mark.parametrize("size", [0.0, 30.0, 1e3])
def test_extreme_latents_strengths_and_offsets_make_numbers(halves: Halves, kind: str, size: float) -> None:
    for pack in PACKS:
        graph = halves[pack, kind]["generator"]
        latents, strength, outs, ins = graph.example(2, seed=3)
        for given in (
            (latents * size, strength, outs, ins),
            (latents, strength * size, outs, ins),
            (latents, strength, outs * size, ins * size),
            (latents * size, strength * size, outs * size, ins * size),
        ):
            assert torch.isfinite(graph.module(*given)).all()


@torch.no_grad()
@every_half
@pytest.mark.parametrize(
    ("left", "most"), [(0.0, None), (1e-3, None), (1e-2, {"fp16": 0.05, "bf16": 0.4}), (0.1, {"fp16": 0.02, "bf16": 0.08})]
)
def test_offsets_that_take_a_channel_away_make_numbers_in_graph_and_generator(
    kind: str, left: float, most: Mapping[str, float] | None
) -> None:
    """The channel's norm is next to nothing and demodulation next to infinite: what branches were rounded by is magnified likewise."""
    torch.manual_seed(0)
    generator = Generator(8, 16, 1, channels={4: 64, 8: 64}).eval().requires_grad_(False)
    shared = {layer.index: torch.zeros(64, 64) for layer in generator.layers if layer.kind == "conv"}
    for constant in shared.values():
        constant[:8] = left - 1
    latents, strength, outs, ins = torch.randn(2, 4, 16), torch.ones(2, 1), torch.zeros(2, 3 * 64), torch.randn(2, 3 * 64)
    reference = EditingGenerator(generator, shared)(latents, strength, outs, ins)
    generator.halved(KINDS[kind])
    offsets = {index: FactorisedOffset(out_BO=outs[:, :64], in_BI=ins[:, :64], shared_OI=constant) for index, constant in shared.items()}
    graph = EditingGenerator(generator, shared)(latents, strength, outs, ins)
    for found in (graph, generator.synthesis(latents, offsets), generator.synthesis(latents, {i: dense(o) for i, o in offsets.items()})):
        assert torch.isfinite(found).all()
        assert most is None or apart(found, reference) < most[kind]


@every_half
@pytest.mark.parametrize("pack", ["small", pytest.param("portraits64", marks=pytest.mark.long)])
@every_graph
def test_every_value_of_the_exported_graph_has_a_type_that_tensorrt_takes(halves: Halves, pack: str, kind: str, name: str) -> None:
    found = onnx.load_from_string(export(halves[pack, kind][name]).data)
    onnx.checker.check_model(found, full_check=True)  # operands of different types would be an error
    half = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[kind]
    assert [entry.version for entry in found.opset_import] == [BFLOAT16_OPSET if kind == "bf16" else OPSET]
    types = _types(found)
    assert {types[value.name] for value in (*found.graph.input, *found.graph.output)} == {TensorProto.FLOAT}
    for node in found.graph.node:
        spoken = {types[value] for value in (*node.input, *node.output) if value}
        assert {ONNX[one] for one in spoken} <= set(SUPPORTED[node.op_type]["types"]) | {"INT64"}, node.op_type
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            groups = {attribute.name: attribute.i for attribute in node.attribute}.get("group", 1)
            enlarges_colours = node.op_type == "ConvTranspose" and groups == 3  # in float32
            assert spoken == {TensorProto.FLOAT if enlarges_colours else half}
    assert_supported(found)
    weights = [value for value in found.graph.initializer if len(value.dims) == 4]
    assert weights and sum(value.data_type == half for value in weights) > len(weights) / 2


@torch.no_grad()
@every_half
@every_graph
def test_the_exported_graph_computes_what_torch_computes(halves: Halves, kind: str, name: str) -> None:
    """ONNX Runtime's CPU has no bfloat16: that graph is widened to float32 after its weights were rounded."""
    graph = halves["small", kind][name]
    found = onnx.load_from_string(export(graph).data)
    session = onnxruntime.InferenceSession(
        (_widened(found) if kind == "bf16" else found).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        inputs = graph.example(batch, seed=batch)
        computed = session.run(None, {key: value.numpy() for key, value in zip(graph.inputs, inputs, strict=True)})
        for value, expected in zip(computed, made(graph, inputs), strict=True):
            assert apart(torch.from_numpy(value), expected) < HALF_TOLERANCE[KINDS[kind]] / 2


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.output, *inferred.value_info)}
    return types | {value.name: value.data_type for value in inferred.initializer}


def _widened(model: onnx.ModelProto) -> onnx.ModelProto:
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for number, value in enumerate(wide.graph.initializer):
        if value.data_type == TensorProto.BFLOAT16:
            wide.graph.initializer[number].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value).astype(np.float32), value.name))
    for node in wide.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    for entry in wide.opset_import:
        entry.version = 20  # of ONNX Runtime's kernels; nothing that these graphs use changed after it but types
    return wide


@torch.no_grad()
def test_an_affine_map_is_batch_norm_in_inference() -> None:
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(5)
    norm(torch.randn(64, 5, 3, 3) * 4 + 2)
    norm.eval()
    x = torch.randn(2, 5, 3, 3)
    assert torch.allclose(Affine(norm)(x), norm(x), atol=1e-6)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.Sequential(copy.deepcopy(norm)))
    replaced = with_affine_norms(network)
    assert replaced is network and not [one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d)]


def test_a_generator_in_another_precision_is_refused(packs: Mapping[str, Pack]) -> None:
    pack = Pack.load(packs["small"].path)
    with pytest.raises(ValueError, match=r"the generator computes in torch.float16, its graph should in torch.float32"):
        generator_graph(pack.generator().halved(torch.float16), pack.network("hypereditor", HyperEditor))


def test_a_generator_says_what_it_computes_in() -> None:
    generator = Generator(8, 4, 1, channels={4: 4, 8: 4})
    assert generator.kind is None and generator.halved(torch.bfloat16).kind == torch.bfloat16 and generator.halved(None).kind is None


def test_onnx_runtime_refuses_half_precision_with_a_reason(halves: Halves) -> None:
    with pytest.raises(
        BackendError, match=r"^--backend onnxruntime: onnxruntime computes in float32 on CPUs, and graph trunk is in torch.bf"
    ):
        load_checked("onnxruntime", halves["small", "bf16"]["trunk"], device="cpu", batch_size=2)


@pytest.mark.long
@pytest.mark.timeout(900)
@every_half
def test_the_compiled_networks_of_a_pack_compute_what_eager_computes(halves: Halves, kind: str) -> None:
    assert set(choose("compile", list(halves["small", kind].values()), device="cpu", batch_size=2).runners) == set(GRAPHS)


def test_one_graph_is_compiled_in_half_precision_or_a_compiler_is_missing(halves: Halves) -> None:
    graph = halves["small", "bf16"]["trunk"]
    if not shutil.which(os.environ.get("CXX", "g++")):
        with pytest.raises(BackendError, match=r"^--backend compile: \w+: ."):
            load_checked("compile", graph, device="cpu", batch_size=2)
        return
    run = load_checked("compile", graph, device="cpu", batch_size=2)
    inputs = graph.example(2, seed=7)
    with torch.no_grad():
        assert apart(run(*inputs)[0], graph.plain(*inputs)[0]) < HALF_TOLERANCE[torch.bfloat16]
