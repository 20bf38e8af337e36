"""The generator's fast paths equal its plain form, gradients arrive, and wrong input is named."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import modulated_conv, stylegan2
from models.discriminator import Discriminator
from models.modulated_conv import ModulatedConv, convolve_grouped, convolve_looped
from models.state import AnyOffset, FactorisedOffset, GeneratorState, Offsets
from models.stylegan2 import Generator

CHANNELS = {4: 16, 8: 16, 16: 12, 32: 8, 64: 8}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    g = Generator(64, 24, 2, channels=CHANNELS)
    for name, parameter in g.named_parameters():
        if name.endswith(("noise.weight", "activate.bias", "modulation.bias", "to_rgb1.bias")):
            torch.nn.init.normal_(parameter, std=0.5)
    return g.eval().requires_grad_(False)


def latents(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, 10, 24, generator=torch.Generator().manual_seed(seed))


def offsets(g: Generator, batch: int, *, kernel: int, std: float = 0.3) -> dict[int, Tensor]:
    source = torch.Generator().manual_seed(2)
    shapes = {layer.index: (batch, layer.out_channels, layer.in_channels, min(kernel, layer.kernel)) for layer in g.layers}
    return {i: torch.randn(*shape, shape[-1], generator=source) * std for i, shape in shapes.items()}


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * b.abs().max())


def plain(conv: ModulatedConv, x: Tensor, w: Tensor) -> Tensor:
    """The definition: scale every sample's weights by its style, demodulate them, convolve sample by sample."""
    style = conv.modulation(w)
    out = []
    for row, s in zip(x, style, strict=True):
        weight = conv.weight[0] * conv.scale * s[None, :, None, None]
        if conv.demodulate:
            weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if conv.layer.upsample:
            y = F.conv_transpose2d(row[None], weight.transpose(0, 1), stride=2)
            kernel = torch.outer(*[torch.tensor([1.0, 3, 3, 1]) / 4] * 2)
            out.append(F.conv2d(y, kernel.expand(y.shape[1], 1, 4, 4), padding=1, groups=y.shape[1]))
        else:
            out.append(F.conv2d(row[None], weight, padding=weight.shape[-1] // 2))
    return torch.cat(out)


@pytest.mark.parametrize("index", range(14))
def test_modulated_activations_equal_modulated_weights_on_every_layer(generator: Generator, index: int) -> None:
    layer = generator.layers[index]
    module = next(m for m in generator.modules() if isinstance(m, ModulatedConv) and m.layer.index == index)
    side = layer.resolution // 2 if layer.upsample else layer.resolution
    x, w = torch.randn(3, layer.in_channels, side, side), torch.randn(3, 24)
    y, demodulation = module(x, module.modulation(w))
    y = y if demodulation is None else y * demodulation[:, :, None, None]
    assert close(y, plain(module, x, w))


@pytest.mark.parametrize("index", range(14))
@pytest.mark.parametrize("kernel", [1, 3])
def test_an_offset_per_sample_equals_changed_weights_on_every_layer(generator: Generator, index: int, kernel: int) -> None:
    layer = generator.layers[index]
    module = next(m for m in generator.modules() if isinstance(m, ModulatedConv) and m.layer.index == index)
    side = layer.resolution // 2 if layer.upsample else layer.resolution
    x, w = torch.randn(2, layer.in_channels, side, side), torch.randn(2, 24)
    offset = offsets(generator, 2, kernel=kernel)[index]
    y, demodulation = module(x, module.modulation(w), offset)
    y = y if demodulation is None else y * demodulation[:, :, None, None]
    for sample in range(2):
        changed = copy.deepcopy(module)
        changed.weight.mul_(1 + offset[sample])
        assert close(y[sample], plain(changed, x[sample : sample + 1], w[sample : sample + 1])[0])


def factors(g: Generator, batch: int) -> dict[int, FactorisedOffset]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(3))
    return {
        layer.index: FactorisedOffset(
            out_BO=draw(batch, layer.out_channels) * 0.5, in_BI=draw(batch, layer.in_channels) * 0.5,
            shared_OI=draw(layer.out_channels, layer.in_channels) * 0.3,
        )
        for layer in g.layers
    }  # fmt: skip


@pytest.mark.parametrize("index", range(14))
def test_a_factorised_offset_equals_its_dense_form_on_every_layer(
    generator: Generator, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modulated_conv, "HEAVY_KERNELS", 0)
    layer = generator.layers[index]
    module = generator.convolutions()[index]
    side = layer.resolution // 2 if layer.upsample else layer.resolution
    x, style = torch.randn(3, layer.in_channels, side, side), module.modulation(torch.randn(3, 24))
    offset = factors(generator, 3)[index]
    assert module._prefers_factors(x, offset) and not module._prefers_factors(x, offset[:1])
    for ours, wanted in zip(module(x, style, offset), module(x, style, offset.dense()), strict=True):
        assert (ours is None and wanted is None) or close(ours, wanted)


def test_the_generator_runs_factorised_offsets_with_the_gradients_of_dense_ones() -> None:
    torch.manual_seed(0)
    wide = Generator(16, 24, 2, channels={4: 64, 8: 96, 16: 32}).eval().requires_grad_(False)
    convs = wide.convolutions()
    offsets = factors(wide, 2)
    inputs = [torch.empty(2, conv.layer.in_channels, *[conv.layer.resolution] * 2) for conv in convs]
    chosen = [conv._prefers_factors(x, offsets[conv.layer.index]) for conv, x in zip(convs, inputs, strict=True)]
    assert any(chosen) and not all(chosen)
    gradients = []
    for dense in (False, True):
        given = factors(wide, 2)
        leaves = [value.requires_grad_() for o in given.values() for value in (o.out_BO, o.in_BI, o.shared_OI)]
        picture = wide.synthesis(latents(2)[:, :6], {i: o.dense() for i, o in given.items()} if dense else given)
        gradients.append([picture, *torch.autograd.grad(picture.square().mean(), leaves)])
    assert all(close(ours, wanted) for ours, wanted in zip(*gradients, strict=True))


@pytest.mark.parametrize("factorised", [False, True])
def test_half_precision_stays_within_two_percent_and_keeps_demodulation_in_full(generator: Generator, factorised: bool) -> None:
    given: Offsets = factors(generator, 3) if factorised else offsets(generator, 3, kernel=1)
    wanted = generator.synthesis(latents(3), given)
    with torch.autocast("cpu", torch.bfloat16):
        made = generator.synthesis(latents(3), given)
        module = generator.convolutions()[3]
        _, demodulation = module(torch.randn(3, 16, 8, 8, dtype=torch.bfloat16), torch.randn(3, 16), given[3])
    assert (made.float() - wanted).abs().mean() <= 0.02 * wanted.abs().mean()
    assert demodulation is not None and demodulation.dtype == torch.float32


@torch.no_grad()
def test_kernels_that_an_offset_cancels_make_no_picture_of_nan(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modulated_conv, "HEAVY_KERNELS", 0)
    conv = generator.convolutions()[0]
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        out, into = torch.randn(2, 16, generator=draw), torch.randn(2, 16, generator=draw)
        offset = FactorisedOffset(out_BO=out, in_BI=into, shared_OI=-1 - out[0][:, None] * into[0][None])
        y, factor = conv(torch.randn(2, 16, 4, 4, generator=draw), torch.randn(2, 16, generator=draw), offset)
        assert factor is not None and torch.isfinite(y * factor[:, :, None, None]).all()


def test_factors_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected shapes \(B, O\), \(B, I\), \(O, I\), found \(2, 4\), \(3, 5\)"):
        FactorisedOffset(out_BO=torch.zeros(2, 4), in_BI=torch.zeros(3, 5), shared_OI=torch.zeros(4, 5))


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_grouped_form_for_gpus_equals_the_looped_one_for_cpus(up: bool, kernel: int) -> None:
    if up and kernel == 1:
        kernel = 3  # toRGB never enlarges
    x, weight = torch.randn(3, 5, 8, 8), torch.randn(3, 4, 5, kernel, kernel)
    assert close(convolve_grouped(x, weight, up=up), convolve_looped(x, weight, up=up))


def test_one_offset_for_the_batch_equals_the_same_one_per_sample(generator: Generator) -> None:
    shared = offsets(generator, 1, kernel=3)
    repeated = {i: o.repeat(3, 1, 1, 1, 1) for i, o in shared.items()}
    assert close(generator.synthesis(latents(3), shared), generator.synthesis(latents(3), repeated))


def test_a_zero_offset_changes_nothing_and_an_offset_does(generator: Generator) -> None:
    state = GeneratorState(latents_BLD=latents(2), offsets=offsets(generator, 2, kernel=1))
    bare = generator.synthesis(latents(2))
    assert close(generator(state.scaled(0)), bare)
    assert (generator(state) - bare).abs().mean() > 0.05 * bare.abs().mean()


def test_an_edit_composed_on_an_inversion_is_an_edit_of_the_changed_generator(generator: Generator) -> None:
    first, second = offsets(generator, 1, kernel=3), offsets(generator, 1, kernel=1, std=0.2)
    tuned = copy.deepcopy(generator)
    for module in tuned.modules():
        if isinstance(module, ModulatedConv):
            module.weight.mul_(1 + first[module.layer.index][0])
    states = [GeneratorState(latents_BLD=latents(2), offsets=o) for o in (first, second)]
    assert close(generator(states[0].composed(states[1])), tuned(states[1]))


def test_a_batch_equals_its_single_images(generator: Generator) -> None:
    state = GeneratorState(latents_BLD=latents(3), offsets=offsets(generator, 3, kernel=1))
    singles = torch.cat([generator(state.slice(i, i + 1)) for i in range(3)])
    assert close(generator(state), singles)


@torch.no_grad()
@pytest.mark.parametrize("cached", [1, 8 * 64**2, 3 * 8 * 64**2])
@pytest.mark.parametrize("factorised", [True, False])
def test_parts_of_a_batch_one_after_the_other_make_the_pictures_of_the_whole(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, cached: int, factorised: bool
) -> None:
    given: dict[int, AnyOffset] = dict(factors(generator, 5) if factorised else offsets(generator, 5, kernel=3))
    given[0] = offsets(generator, 1, kernel=1)[0]  # one that the whole batch shares
    noise = [torch.randn(5 if number % 2 else 1, 1, *stored.shape[2:]) for number, stored in enumerate(generator.noises.buffers())]
    whole = generator.synthesis(latents(5), given, noise=noise)
    sizes: list[int] = []
    last = generator.convs[-1].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    monkeypatch.setattr(stylegan2, "CACHED", cached)
    parts = generator.synthesis(latents(5), given, noise=noise)
    last.remove()
    assert sizes == {1: [1] * 5, 8 * 64**2: [1] * 5, 3 * 8 * 64**2: [3, 2]}[cached]
    assert close(parts, whole)


def test_with_gradients_a_batch_stays_whole(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stylegan2, "CACHED", 1)
    sizes: list[int] = []
    last = generator.convs[-1].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    generator.synthesis(latents(3).requires_grad_(True)).sum().backward()
    last.remove()
    assert sizes == [3]


def test_gradients_reach_latents_and_offsets(generator: Generator) -> None:
    w, delta = latents(2).requires_grad_(), offsets(generator, 2, kernel=1)
    for value in delta.values():
        value.requires_grad_()
    loss = generator.synthesis(w, delta).square().mean()
    loss.backward()
    assert w.grad is not None and w.grad.abs().amax(dim=(0, 2)).min() > 0  # every slot matters
    index, step = 6, 1e-3
    ascent = {**delta, index: delta[index].detach() + step * delta[index].grad / delta[index].grad.norm()}
    gained = generator.synthesis(w, ascent).square().mean() - loss
    assert gained.item() == pytest.approx(step * delta[index].grad.norm().item(), rel=0.05)


def test_a_penalty_on_gradients_can_itself_be_differentiated() -> None:
    d = Discriminator(64, channels=CHANNELS)
    images = torch.randn(4, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(d(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for n, p in d.named_parameters() if n.endswith("weight"))


def test_mean_latent_is_the_mean_of_mapped_noise(generator: Generator) -> None:
    mean = generator.mean_latent(5000, seed=1)
    other = generator.mapping(torch.randn(5000, 24, generator=torch.Generator().manual_seed(5)))
    assert ((mean - other.mean(dim=0)).abs() <= 6 * other.std(dim=0) / math.sqrt(2500)).all()
    assert torch.equal(mean, generator.mean_latent(5000, seed=1))


def test_layers_describe_the_output_indices_at_1024() -> None:
    with torch.device("meta"):
        layers = Generator(1024).layers
    assert [layer.index for layer in layers if layer.kind == "rgb"] == [1, 4, 7, 10, 13, 16, 19, 22, 25]
    assert [layer.latent for layer in layers] == [0, 1, *(slot for k in range(8) for slot in (2 * k + 1, 2 * k + 2, 2 * k + 3))]
    assert (layers[14].in_channels, layers[14].out_channels, layers[14].upsample) == (512, 256, True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.synthesis(torch.zeros(1, 9, 24)), r"latents must have shape \(B, 10 or 14, 24\), found \(1, 9, 24\)"),
        (lambda g: g.synthesis(latents(1), {14: torch.zeros(1, 3, 8, 1, 1)}), "offset 14 has no layer; indices run from 0 to 13"),
        (lambda g: g.synthesis(latents(2), {3: torch.zeros(2, 16, 12, 1, 1)}), r"layer 3: offset must have shape \(2 or 1, 16, 16, k, k\)"),
        (lambda g: g.synthesis(latents(1), {1: torch.zeros(1, 3, 16, 3, 3)}), "with k 1 or 1"),
        (lambda g: g.synthesis(latents(1), noise=[None]), "expected 9 entries, one per convolution, found 1"),
        (lambda g: Generator(48), "power of two from 8 up, found 48"),
        (lambda g: Generator(64, channels={4: 8}), "lack a width for resolution 8"),
        (lambda g: Discriminator(64, channels=CHANNELS)(torch.zeros(1, 3, 32, 32)), r"expected images \(B, 3, 64, 64\)"),
        (lambda g: Discriminator(64, channels=CHANNELS)(torch.zeros(6, 3, 64, 64)), "at most 4 or divisible by it, found 6"),
    ],
)
def test_wrong_input_is_named(generator: Generator, call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(generator)  # type: ignore[operator]
