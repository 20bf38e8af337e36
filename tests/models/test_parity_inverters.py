"""Official checkpoints of inverters, read by the loader, give the published numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.encoders import PspEncoder, WEncoder
from models.hyperstyle import HyperStyle
from models.inverters import EncoderInverter, HyperStyleInverter, ReStyleInverter
from models.official import MEAN_LATENT, OfficialNetwork, networks_in
from models.restyle import ReStyleEncoder, ReStyleResNetEncoder
from models.stylegan2 import Generator
from tests.models.parity.case import Case, prefixed


def checkpoint(case: Case, roles: Mapping[str, str], **beside: object) -> dict[str, OfficialNetwork]:
    """Wrap the weights of roles under prefixes, as their authors save them, and read them back."""
    state = {key: value for role, prefix in roles.items() for key, value in prefixed(prefix, case.weights(role)).items()}
    return {network.name: network for network in networks_in({"state_dict": state, **beside})}


def offsets_of(case: Case, offsets: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Name offsets as the case does; the release repeats a value that holds for the whole kernel."""
    shapes = {int(name[-2:]): spec["shape"] for name, spec in case.facts["outputs"].items() if name.startswith("delta_")}
    return {f"delta_{index:02}": offset.expand(*shapes[index]) for index, offset in offsets.items()}


@torch.no_grad()
def test_psp() -> None:
    case = Case("psp_gradual_1024")
    encoder = checkpoint(case, {"encoder": "encoder"}, opts={"encoder_type": "GradualStyleEncoder"})["psp"].module
    assert isinstance(encoder, PspEncoder)
    case.check({"codes": encoder(case.inputs["image"])})


@torch.no_grad()
def test_e4e_with_its_generator() -> None:
    case = Case("e4e_full_256")
    opts = {"encoder_type": "Encoder4Editing"}
    found = checkpoint(case, {"encoder": "encoder", "decoder": "decoder"}, opts=opts, latent_avg=case.inputs["latent_avg"])
    g, e4e = found["generator"].module, found["e4e"]
    assert isinstance(g, Generator)
    state = EncoderInverter("e4e", e4e.module, latent_avg=e4e.extra[MEAN_LATENT]).invert(case.inputs["image"])  # type: ignore[arg-type]
    case.check({"codes": state.latents_BLD, "image": g(state)})


@pytest.mark.parametrize(
    ("name", "kind", "encoder_type", "opts"),
    [
        ("restyle_progressive_18", ReStyleEncoder, "ProgressiveBackboneEncoder", {}),
        ("restyle_resnet_16", ReStyleResNetEncoder, "ResNetProgressiveBackboneEncoder", {"dataset_type": "cars_encode"}),
    ],
)
@torch.no_grad()
def test_restyle(name: str, kind: type, encoder_type: str, opts: dict[str, str]) -> None:
    case = Case(name)
    encoder = checkpoint(case, {"encoder": "encoder"}, opts={"encoder_type": encoder_type, **opts})["restyle_e4e"].module
    assert isinstance(encoder, kind)
    case.check({"codes": encoder(case.inputs["x"], case.inputs["y"])})


@torch.no_grad()
def test_restyle_in_two_steps() -> None:
    case = Case("restyle_loop_256")
    opts = {"encoder_type": "ProgressiveBackboneEncoder"}
    found = checkpoint(case, {"encoder": "encoder", "decoder": "decoder"}, opts=opts, latent_avg=case.inputs["latent_avg"])
    g, encoder = found["generator"].module, found["restyle_e4e"]
    assert isinstance(g, Generator) and isinstance(encoder.module, ReStyleEncoder)
    inverter = ReStyleInverter("restyle_e4e", encoder.module, generator=g, latent_avg=encoder.extra[MEAN_LATENT], iterations=2)
    state = inverter.invert(case.inputs["image"])
    case.check({"latent": state.latents_BLD, "image": g(state)})


@pytest.mark.parametrize(
    ("name", "size"), [("hyperstyle_hypernet_1024", 1024), ("hyperstyle_hypernet_256_rgb", 256), ("hyperstyle_separable_1024", 1024)]
)
@torch.no_grad()
def test_hyperstyle_hypernetworks(name: str, size: int) -> None:
    case = Case(name)
    hypernetwork = checkpoint(case, {"hypernet": "hypernet"}, opts={"output_size": size})["hyperstyle"].module
    assert isinstance(hypernetwork, HyperStyle)
    case.check(offsets_of(case, hypernetwork(case.inputs["x"], case.inputs["y"])))


@torch.no_grad()
def test_hyperstyle_in_three_passes() -> None:
    case = Case("hyperstyle_full_256")
    image, mean = case.inputs["image"], case.inputs["latent_avg"]
    found = checkpoint(case, {"hypernet": "hypernet", "decoder": "decoder"}, latent_avg=mean)
    # The W encoder's file has a mean latent of its own, which must not count.
    other = checkpoint(case, {"w_encoder": "encoder"}, latent_avg=torch.full((18, 512), 123.0), opts={"output_size": 256})
    g, hypernetwork, encoder = found["generator"].module, found["hyperstyle"], other["w_encoder"].module
    assert isinstance(g, Generator) and isinstance(hypernetwork.module, HyperStyle) and isinstance(encoder, WEncoder)
    outputs: dict[str, Tensor] = {}
    inverter = HyperStyleInverter(
        "hyperstyle", hypernetwork.module, encoder=encoder, generator=g, latent_avg=hypernetwork.extra[MEAN_LATENT], iterations=3
    )
    for number, state in enumerate(inverter.passes(image, inverter.start.invert(image))):
        outputs[f"image_iter{number}"] = g(state)
    outputs |= offsets_of(case, state.offsets)
    outputs["codes"] = state.latents_BLD[:, :2] if case.facts["outputs"]["codes"]["shape"][1] == 2 else state.latents_BLD
    outputs["initial_inversion"] = F.adaptive_avg_pool2d(g.synthesis(state.latents_BLD), 256)
    case.check(outputs)
