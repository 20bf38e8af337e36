"""HyperEditor's hypernetwork and the encoders at small sizes: exact fast paths, gentle start, clear errors."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models.encoders import Encoder4Editing, WEncoder
from models.hypereditor import HyperEditor
from models.refinement import SeparableKernel
from models.state import FactorisedOffset, dense
from models.stylegan2 import Generator, layer_table

CHANNELS = {4: 16, 8: 16, 16: 12, 32: 8, 64: 8}
TRUNK = {"widths": (8, 8, 12, 16), "depths": (1, 1, 2, 1)}


def hypernetwork(**changes: object) -> HyperEditor:
    torch.manual_seed(0)
    arguments = {"channels": CHANNELS, "input_size": 64, "text_dim": 12, "inner": 8, **TRUNK, **changes}
    return HyperEditor.from_config({"size": 64, **arguments}).eval()


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("index", [0, 5, 8])
@torch.no_grad()
def test_factors_give_the_same_offset_as_the_definition(kernel_size: int, index: int) -> None:
    layer = layer_table(64, CHANNELS)[index]
    head = SeparableKernel(20, layer, kernel_size=kernel_size)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    features = torch.randn(3, 20)
    offset = head(features)
    assert offset.shape == (3, layer.out_channels, layer.in_channels, kernel_size, kernel_size)
    assert (offset - head.plain(features)).abs().max() <= 1e-5 * offset.abs().max()


@pytest.mark.parametrize("kernel_size", [1, 3])
@torch.no_grad()
def test_offsets_that_are_not_multiplied_out_are_the_same_offsets(kernel_size: int) -> None:
    h = hypernetwork(kernel_size=kernel_size, layers=[0, 2, 4, 5])
    image, text = torch.randn(3, 3, 64, 64), torch.randn(1, 12)
    factors, offsets = h.factors(image, text), h(image, text)
    assert [isinstance(factors[i], FactorisedOffset) for i in (0, 2, 4, 5)] == [kernel_size == 1, kernel_size == 1, False, kernel_size == 1]
    assert all((dense(factors[i]) - o).abs().max() <= 1e-6 * o.abs().max() for i, o in offsets.items())


@pytest.mark.parametrize("kernel_size", [1, 3])
@torch.no_grad()
def test_a_new_hypernetwork_starts_near_the_inversion_and_depends_on_the_text(kernel_size: int) -> None:
    h = hypernetwork(kernel_size=kernel_size)
    g = Generator(64, 24, 2, channels=CHANNELS).eval()
    w = torch.randn(2, 10, 24)
    inversion = g.synthesis(w)
    one, other = (h(inversion.clamp(-1, 1), 5 * F.normalize(torch.randn(1, 12))) for _ in range(2))
    edited = g.synthesis(w, one)
    assert 0 < (edited - inversion).square().mean() < 0.01 * inversion.square().mean()
    assert all((one[i] - other[i]).abs().max() > 0 for i in one)


def test_every_head_and_the_modulation_learn() -> None:
    h = hypernetwork(layers=[0, 1, 6]).train()
    offsets = h(torch.randn(4, 3, 64, 64), torch.randn(4, 12))
    torch.stack([o.square().mean() for o in offsets.values()]).sum().backward()
    idle = [name for name, p in h.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert idle == []


@torch.no_grad()
def test_chosen_layers_and_rgb_layers() -> None:
    h = hypernetwork(layers=[6, 4, 0], kernel_size=3)
    image, text = torch.randn(2, 3, 64, 64), torch.randn(2, 12)
    offsets = h(image, text)
    assert {i: tuple(o.shape) for i, o in offsets.items()} == {0: (2, 16, 16, 3, 3), 4: (2, 3, 16, 1, 1), 6: (2, 12, 12, 3, 3)}
    assert torch.allclose(h(image, text, layers=[4])[4], offsets[4])
    assert not torch.allclose(h(image, None, layers=[4])[4], offsets[4])


@torch.no_grad()
def test_one_text_serves_the_batch() -> None:
    h = hypernetwork(layers=[6])
    image, text = torch.randn(3, 3, 64, 64), torch.randn(1, 12)
    assert torch.allclose(h(image, text)[6], h(image, text.expand(3, -1))[6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hypernetwork(kernel_size=2), r"kernel_size must be 1 \(released weights\) or 3 \(paper\), found 2"),
        (lambda: hypernetwork(input_size=48), "input_size must be a power of two from 32 up, found 48"),
        (lambda: hypernetwork(layers=[0, 14]), r"output indices from 0 to 13, found \[0, 14\]"),
        (lambda: hypernetwork(layers=[]), r"output indices from 0 to 13, found \[\]"),
        (lambda: hypernetwork(depths=(1, 1)), "four widths and four depths"),
        (lambda: hypernetwork()(torch.zeros(1, 3, 32, 32), None), r"expected images \(B, 3, 64, 64\), found \(1, 3, 32, 32\)"),
        (lambda: hypernetwork()(torch.zeros(1, 3, 64, 64), torch.zeros(12)), r"text directions \(B or 1, 12\), found \(12,\)"),
        (lambda: hypernetwork(layers=[6])(torch.zeros(1, 3, 64, 64), None, layers=[0]), r"layer 0 has no head; tuned layers are \[6\]"),
        (lambda: Encoder4Editing(64, input_size=16), "style block: its feature map must have a side of 2, 4, 8"),
        (lambda: Encoder4Editing(64, widths=(8, 8), depths=(1, 1)), "four widths and four depths"),
        (lambda: WEncoder(64, input_size=64, **TRUNK)(torch.zeros(1, 3, 32, 32)), r"W encoder: expected images \(B, 3, 64, 64\)"),
    ],
)
def test_wrong_values_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@torch.no_grad()
def test_e4e_at_64_px_adds_slots_stage_by_stage() -> None:
    encoder = Encoder4Editing(64, input_size=64, style_dim=24, style_width=8, **TRUNK).eval()
    image = torch.randn(2, 3, 64, 64)
    full = encoder(image)
    assert full.shape == (2, 10, 24)
    for stage in (0, 4, 8):
        codes = encoder(image, stage=stage)
        assert torch.allclose(codes[:, : stage + 1], full[:, : stage + 1], atol=1e-6)
        assert torch.equal(codes[:, stage + 1 :], codes[:, :1].expand(-1, 9 - stage, -1))
    assert torch.equal(encoder(image, stage=18), full)


@torch.no_grad()
def test_w_encoder_repeats_one_w() -> None:
    codes = WEncoder(64, input_size=64, style_dim=24, **TRUNK).eval()(torch.randn(2, 3, 64, 64))
    assert codes.shape == (2, 10, 24)
    assert torch.equal(codes, codes[:, :1].expand(-1, 10, -1))
