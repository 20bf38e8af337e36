"""The encoders and HyperEditor's hypernetwork read released key names and give the published numbers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models.encoders import Encoder4Editing, WEncoder
from models.hypereditor import HyperEditor
from models.stylegan2 import Generator
from tests.models.parity.case import Case, meta


@pytest.mark.parametrize(("name", "size"), [("e4e_1024", 1024), ("e4e_256", 256)])
@torch.no_grad()
def test_e4e(name: str, size: int) -> None:
    case = Case(name)
    with meta():
        encoder = Encoder4Editing(size)
    case.check({"codes": case.load("encoder", encoder)(case.inputs["image"])})


@torch.no_grad()
def test_e4e_progressive_stages() -> None:
    case = Case("e4e_256_stages")
    with meta():
        encoder = Encoder4Editing(256)
    case.load("encoder", encoder)
    case.check({f"codes_stage{stage}": encoder(case.inputs["image"], stage=stage) for stage in (0, 3, 9)})


@torch.no_grad()
def test_w_encoder() -> None:
    case = Case("w_encoder")
    with meta():
        encoder = WEncoder(1024)
    case.check({"codes": case.load("encoder", encoder)(case.inputs["image"])})


@torch.no_grad()
def test_hypernetwork_of_every_layer_at_1024() -> None:
    case = Case("hypereditor_hypernet_1024")
    with meta():
        hypernetwork = HyperEditor(1024)
    offsets = case.load("hypernet", hypernetwork)(case.inputs["reconstruction"], case.inputs["delta_t"][None])
    case.check({f"delta_{index:02}": offset for index, offset in offsets.items()})


@torch.no_grad()
def test_hypernetwork_with_chosen_layers_and_without_a_text() -> None:
    case = Case("hypereditor_hypernet_256_options")
    with meta():
        hypernetwork = HyperEditor(256)
    case.load("hypernet", hypernetwork)
    modulated = hypernetwork(case.inputs["reconstruction"], case.inputs["delta_t"], layers=[3, 9, 14, 17])
    plain = hypernetwork(case.inputs["reconstruction"], None, layers=[3, 9])
    outputs = {f"delta_{index:02}": offset for index, offset in modulated.items()}
    case.check(outputs | {f"delta_unmodulated_{index:02}": offset for index, offset in plain.items()})


@torch.no_grad()
def test_edit_of_a_given_w() -> None:
    case = Case("hypereditor_given_w_256")
    with meta():
        g, hypernetwork = Generator(256), HyperEditor(256)
    case.load("hypernet", hypernetwork)
    case.load("decoder", g)
    inversion = F.adaptive_avg_pool2d(g.synthesis(case.inputs["wplus"]), 256)
    offsets = hypernetwork(inversion, case.inputs["delta_t"][None])
    outputs = {f"delta_{index:02}": offset for index, offset in offsets.items()}
    case.check(outputs | {"image": g.synthesis(case.inputs["wplus"], offsets)})
