"""The generator in half precision: close to full precision on the trained pack, finite on whatever it is given."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.hypereditor import HyperEditor
from models.pack import Pack
from models.perceptual import PerceptualDistance
from models.state import FactorisedOffset, Offsets, dense
from models.stylegan2 import CLAMP, Generator

PACK = Path(__file__).parents[2] / "packs" / "portraits64"
PSNR_DB = {torch.float16: 70.0, torch.bfloat16: 52.0}
LPIPS = {torch.float16: 1e-5, torch.bfloat16: 1e-3}
"""How far half precision may be from full on edited portraits (docs/performance.md)."""
KINDS = pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
WIDTHS: Mapping[int, int] = {4: 256, 8: 256, 16: 128, 32: 64}


@pytest.fixture(scope="module")
def pack() -> Pack:
    return Pack.load(PACK)


@pytest.fixture(scope="module")
def wide() -> Generator:
    """A generator with the released standard deviation of its weights, N(0, 1), which overflow half precision as they are."""
    torch.manual_seed(0)
    return Generator(32, 64, 2, channels=WIDTHS).eval().requires_grad_(False)


def edited(pack: Pack, batch: int) -> tuple[Tensor, dict[str, Offsets]]:
    generator, clip = pack.generator(), pack.clip()
    w = generator.repeat(generator.mapping(torch.randn(batch, generator.style_dim, generator=torch.Generator().manual_seed(4))))
    direction = clip.embed_texts(["a face with a beard"]) - clip.embed_texts(["a face"])
    factors = pack.network("hypereditor", HyperEditor).factors(generator.synthesis(w).clamp(-1, 1), direction)
    return w, {"none": {}, "factorised": factors, "dense": {index: dense(offset) for index, offset in factors.items()}}


def halved(generator: Generator, kind: torch.dtype) -> Generator:
    return copy.deepcopy(generator).halved(kind)


@KINDS
@torch.no_grad()
def test_autocast_reaches_neither_styles_nor_demodulation(pack: Pack, kind: torch.dtype) -> None:
    w, given = edited(pack, 2)
    fast = halved(pack.generator(), kind)
    with torch.autocast("cpu", kind):
        styles = fast.styles(w.to(kind))
        within = fast.synthesis(w, given["factorised"])
    assert {style.dtype for style in styles} == {torch.float32}
    assert torch.equal(within, fast.synthesis(w, given["factorised"]))


@torch.no_grad()
def test_texts_that_are_kept_are_never_rounded(pack: Pack) -> None:
    text = "a face that nobody asked for yet"
    with torch.autocast("cpu", torch.bfloat16):
        first = pack.clip().embed_texts([text])
    assert first.dtype == torch.float32 and torch.equal(first, Pack.load(PACK).clip().embed_texts([text]))


@KINDS
@torch.no_grad()
def test_edited_portraits_are_those_of_full_precision_to_a_stated_distance(pack: Pack, kind: torch.dtype) -> None:
    logging.disable(logging.WARNING)  # LPIPS says that AlexNet is random
    perceptual = PerceptualDistance()
    logging.disable(logging.NOTSET)
    w, given = edited(pack, 8)
    fast = halved(pack.generator(), kind)
    for name, offsets in given.items():
        full, half = pack.generator().synthesis(w, offsets), fast.synthesis(w, offsets)
        assert half.dtype == torch.float32 and not torch.equal(half, full)
        psnr = 10 * torch.log10(4 / (half - full).square().mean((1, 2, 3)))
        assert psnr.min() > PSNR_DB[kind], name
        assert perceptual(half.clamp(-1, 1), full.clamp(-1, 1)).max() < LPIPS[kind], name


@KINDS
@pytest.mark.parametrize("size", [1.0, 30.0, 1e3])
@torch.no_grad()
def test_extreme_latents_weights_and_offsets_make_numbers(wide: Generator, kind: torch.dtype, size: float) -> None:
    w = torch.randn(2, wide.n_latents, 64, generator=torch.Generator().manual_seed(1)) * size
    fast = halved(wide, kind)
    conv = fast.convolutions()[0]
    factors = {
        conv.layer.index: FactorisedOffset(
            out_BO=torch.full((2, 256), size), in_BI=torch.randn(2, 256) * size, shared_OI=torch.zeros(256, 256)
        )
    }
    assert conv._prefers_factors(torch.zeros(2, 256, 4, 4), factors[0])
    for offsets in ({}, factors):
        assert torch.isfinite(fast.synthesis(w, offsets)).all()


@torch.no_grad()
def test_without_the_scaling_the_same_weights_overflow(wide: Generator) -> None:
    conv = wide.convolutions()[0]
    x, style = torch.full((1, 256, 4, 4), 20.0), torch.full((1, 256), 40.0)
    naive = torch.nn.functional.conv2d((x * style[..., None, None]).half(), conv.weight[0].abs().half(), padding=1)
    assert not torch.isfinite(naive).all()
    strong = copy.deepcopy(conv)
    strong.weight.data.abs_()
    full, demodulation = strong(x, style)
    strong.halve(torch.float16)
    half, factor = strong(x.half(), style)
    assert demodulation is not None and factor is not None and torch.isfinite(half).all()
    a, b = full * demodulation[..., None, None], half.float() * factor[..., None, None]
    assert torch.allclose(a, b, rtol=5e-3, atol=5e-3 * float(a.abs().max()))


@torch.no_grad()
def test_what_is_halved_goes_back_to_the_bit_and_is_no_part_of_the_weights(pack: Pack) -> None:
    generator = copy.deepcopy(pack.generator())
    names = set(generator.state_dict())
    w, _ = edited(pack, 1)
    before = generator.synthesis(w)
    generator.halved(torch.float16)
    assert set(generator.state_dict()) == names and not torch.equal(generator.synthesis(w), before)
    assert torch.equal(generator.halved(None).synthesis(w), before)


@torch.no_grad()
def test_the_trained_generator_stays_far_below_the_clamp(pack: Pack) -> None:
    highest, w = list[float](), edited(pack, 8)[0]
    generator = copy.deepcopy(pack.generator())
    for module in (generator.conv1, *generator.convs):
        module.register_forward_hook(lambda _module, _given, out: highest.append(float(out.abs().max())))
    generator.synthesis(w)
    assert len(highest) == len(generator.convs) + 1 and max(highest) < CLAMP / 10
