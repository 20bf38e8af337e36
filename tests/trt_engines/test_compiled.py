"""torch.compile as a backend: the same numbers, one shape for every batch, and a reason where there is no compiler."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

import pytest
import torch

from models.pack import Pack
from pipeline.backends import choose
from tests.trt_engines.conftest import GRAPHS, graphs_of, toy
from trt_engines.compiled import load
from trt_engines.graphs import BackendError, Graph


@torch.no_grad()
def test_a_compiled_graph_computes_what_eager_computes_or_names_what_is_missing() -> None:
    graph = toy()
    if not shutil.which(os.environ.get("CXX", "g++")):
        with pytest.raises(BackendError, match=r"^--backend compile: \w+: ."):
            choose("compile", [graph], device="cpu", batch_size=2)
        return
    assert choose("compile", [graph], device="cpu", batch_size=2).name == "compile"
    run = load(graph, device="cpu", batch_size=2)
    kept = run(*graph.example(2, seed=5))
    for batch in (1, 2, 5):
        inputs = graph.example(batch, seed=batch)
        assert torch.allclose(run(*inputs)[0], graph.plain(*inputs)[0], atol=1e-6)
    assert torch.allclose(kept[0], graph.plain(*graph.example(2, seed=5))[0], atol=1e-6)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_compiled_networks_of_a_pack_compute_what_eager_computes(graphs: Mapping[str, Mapping[str, Graph]]) -> None:
    assert set(choose("compile", list(graphs["small"].values()), device="cpu", batch_size=2).runners) == set(GRAPHS)


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_cuda_graphs_compute_what_eager_computes(packs: Mapping[str, Pack]) -> None:
    graphs = graphs_of(Pack.load(packs["small"].path, device="cuda"))
    assert set(choose("compile", list(graphs.values()), device="cuda", batch_size=4).runners) == set(GRAPHS)
