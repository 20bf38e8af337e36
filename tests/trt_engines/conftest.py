"""Graphs of two packs: a small one with random weights and the committed one; each is exported once per session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from models.encoders import Encoder4Editing
from models.hypereditor import HyperEditor
from models.pack import Pack
from models.pack_format import CACHE_VARIABLE
from tests.commands import ROOT
from tests.models.small_pack import write_small_pack
from trt_engines.graphs import Graph, encoder_graph, generator_graph, heads_graph, trunk_graph

GRAPHS = ("encoder", "trunk", "heads", "generator")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a cache folder for the session, which exports and engines go to; every folder of tests that uses this has the same."""
    folder = tmp_path_factory.getbasetemp() / "graphs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Pack]:
    """Return the small pack and the committed one."""
    small = write_small_pack(tmp_path_factory.mktemp("packs") / "small")
    return {"small": Pack.load(small), "portraits64": Pack.load(ROOT / "packs" / "portraits64")}


def graphs_of(pack: Pack, kind: torch.dtype | None = None) -> dict[str, Graph]:
    """Return the four graphs of a pack by name, in half precision where `kind` says so, which its generator then stays in."""
    hypernetwork = pack.network("hypereditor", HyperEditor)
    found = (
        encoder_graph(pack.network("e4e", Encoder4Editing), kind),
        trunk_graph(hypernetwork, kind),
        heads_graph(hypernetwork, kind),
        generator_graph(pack.generator().halved(kind), hypernetwork, kind),
    )
    return {graph.name: graph for graph in found}


@pytest.fixture(scope="session")
def graphs(packs: Mapping[str, Pack]) -> Mapping[str, Mapping[str, Graph]]:
    """Return the graphs of both packs."""
    return {name: graphs_of(pack) for name, pack in packs.items()}


def toy(seed: int = 0) -> Graph:
    """Return a graph that is exported in a moment."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU())
    return Graph(
        name="encoder",
        module=module,
        plain=lambda image: (module(image),),
        inputs={"image": (3, 8, 8)},
        outputs=("features",),
        examples=lambda batch, seeded: (torch.randn(batch, 3, 8, 8, generator=seeded),),
    )
