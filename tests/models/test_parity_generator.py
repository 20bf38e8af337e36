"""The generator and discriminator read released key names and give the published numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.discriminator import Discriminator
from models.state import GeneratorState
from models.stylegan2 import Generator
from tests.models.parity.case import Case, meta


def generator(case: Case) -> Generator:
    with meta():
        module = Generator(case.facts["constructor"]["size"])
    return case.load("g", module)


def mixed(g: Generator, first_BD: Tensor, second_BD: Tensor, *, slot: int) -> Tensor:
    return torch.cat([g.repeat(first_BD)[:, :slot], g.repeat(second_BD)[:, slot:]], dim=1)


@pytest.mark.parametrize("name", ["g256_w", "g1024_w"])
@torch.no_grad()
def test_one_w(name: str) -> None:
    case = Case(name)
    g = generator(case)
    case.check({"image": g(GeneratorState(latents_BLD=g.repeat(case.inputs["w"])))})


@torch.no_grad()
def test_w_plus_256() -> None:
    case = Case("g256_wplus")
    case.check({"image": generator(case).synthesis(case.inputs["wplus"])})


@torch.no_grad()
def test_w_plus_1024_and_the_pooled_picture() -> None:
    case = Case("g1024_wplus")
    image = generator(case).synthesis(case.inputs["wplus"])
    case.check({"image": image, "pooled256": F.adaptive_avg_pool2d(image, 256)})


@pytest.mark.parametrize("name", ["g256_deltas", "g1024_deltas"])
@torch.no_grad()
def test_offsets(name: str) -> None:
    case = Case(name)
    offsets = {index: delta for index, delta in enumerate(case.inputs["deltas"]) if delta is not None}
    case.check({"image": generator(case)(GeneratorState(latents_BLD=case.inputs["wplus"], offsets=offsets))})


@torch.no_grad()
def test_mapping() -> None:
    case = Case("g256_mapping")
    case.check({"w": generator(case).mapping(case.inputs["z"])})


@torch.no_grad()
def test_mixing() -> None:
    case = Case("g256_mixing")
    g = generator(case)
    case.check({"image": g.synthesis(mixed(g, g.mapping(case.inputs["z1"]), g.mapping(case.inputs["z2"]), slot=5))})


@torch.no_grad()
def test_truncation() -> None:
    case = Case("g256_truncation")
    g = generator(case)
    latents = g.repeat(case.inputs["mean_latent"].lerp(g.mapping(case.inputs["z"]), 0.7))
    case.check({"image": g.synthesis(latents), "latent": latents})


@torch.no_grad()
def test_truncation_and_mixing_1024() -> None:
    case = Case("g1024_z_truncation_mixing")
    g = generator(case)
    first, second = (case.inputs["mean_latent"].lerp(g.mapping(case.inputs[z]), 0.6) for z in ("z1", "z2"))
    case.check({"image": g.synthesis(mixed(g, first, second, slot=7))})


@torch.no_grad()
def test_given_noise() -> None:
    case = Case("g256_given_noise")
    g = generator(case)
    case.check({"image": g.synthesis(g.repeat(case.inputs["w"]), noise=case.inputs["noise"])})


@torch.no_grad()
def test_discriminator() -> None:
    case = Case("d256")
    with meta():
        d = Discriminator(256)
    case.check({"score": case.load("d", d)(case.inputs["image"])})
