"""On a GPU with TensorRT: `pytest -m tensorrt`. Not yet run: its libraries cannot be had on the machines that test this project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from models.pack import Pack
from pipeline.backends import choose
from tests.trt_engines.conftest import GRAPHS, graphs_of
from trt_engines.cache import PLAN
from trt_engines.export import export
from trt_engines.runtime import load, settings_for
from trt_engines.tensorrt_api import load as load_tensorrt
from trt_engines.tensorrt_api import make_logger

pytestmark = [pytest.mark.tensorrt, pytest.mark.timeout(1800)]


every_kind = pytest.mark.parametrize("kind", [None, torch.float16, torch.bfloat16], ids=str)


@pytest.mark.parametrize("pack", ["small", "portraits64"])
@pytest.mark.parametrize("name", GRAPHS)
@every_kind
def test_the_parser_takes_every_node(packs: Mapping[str, Pack], pack: str, name: str, kind: torch.dtype | None) -> None:
    trt = load_tensorrt()
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = trt.Builder(make_logger(trt)).create_network(0 if typed is None else 1 << int(typed))  # type: ignore[attr-defined]
    parser = trt.OnnxParser(network, make_logger(trt))
    assert parser.supports_model_v2(export(graphs_of(Pack.load(packs[pack].path), kind)[name]).data)  # type: ignore[attr-defined]


@pytest.mark.parametrize("pack", ["small", "portraits64"])
@every_kind
def test_engines_compute_what_eager_computes(packs: Mapping[str, Pack], pack: str, kind: torch.dtype | None) -> None:
    graphs = graphs_of(Pack.load(packs[pack].path, device="cuda"), kind)
    assert set(choose("tensorrt", list(graphs.values()), device="cuda", batch_size=4).runners) == set(GRAPHS)


@torch.no_grad()
def test_outputs_stay_and_a_second_load_builds_nothing(packs: Mapping[str, Pack], cache: Path) -> None:
    graph = graphs_of(Pack.load(packs["small"].path, device="cuda"))["generator"]
    assert len(settings_for(graph, batch_size=3).profiles) == 2
    first = load(graph, device="cuda", batch_size=3)
    kept = first(*graph.example(3, device="cuda"))[0]
    before = kept.clone()
    for batch in (1, 2, 3, 7):
        inputs = graph.example(batch, seed=batch, device="cuda")
        assert torch.allclose(first(*inputs)[0], graph.plain(*inputs)[0], atol=1e-2)
    assert torch.equal(kept, before)
    built = {path: path.stat().st_mtime_ns for path in cache.rglob(PLAN)}
    again = load(graph, device="cuda", batch_size=3)
    assert torch.equal(again(*graph.example(3, device="cuda"))[0], before)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob(PLAN)} == built
