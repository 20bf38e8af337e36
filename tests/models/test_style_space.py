"""A change of a style and the weight offset that stands for it give the same picture, whatever offsets there are already."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.state import GeneratorState
from models.style_space import as_offsets, joined, parted, restyled, style_channels, style_layers, style_spread, styles
from models.stylegan2 import Generator
from tests.models.small_pack import CHANNELS, SIZE, STYLE_DIM

torch.set_num_threads(1)
LAYERS = style_layers(SIZE, CHANNELS)


@pytest.fixture(scope="module")
def generator() -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Generator(SIZE, STYLE_DIM, 2, channels=CHANNELS).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def latents(generator: Generator) -> Tensor:
    return torch.randn(3, generator.n_latents, STYLE_DIM, generator=torch.Generator().manual_seed(1))


def changes(rows: int, seed: int = 2) -> Tensor:
    return torch.randn(rows, style_channels(LAYERS), generator=torch.Generator().manual_seed(seed))


def by_hand(generator: Generator, latents: Tensor, change_BS: Tensor, offsets: dict[int, Tensor] | None = None) -> Tensor:
    """Return the pictures of styles that were really changed."""
    found, moved = generator.styles(latents), parted(change_BS, LAYERS)
    return generator.render([style + moved[i] if i in moved else style for i, style in enumerate(found)], offsets)


@pytest.mark.parametrize("rows", [3, 1])
def test_offsets_do_what_changed_styles_do(generator: Generator, latents: Tensor, rows: int) -> None:
    own = styles(generator, latents)
    offsets = as_offsets(generator, own, parted(changes(rows), LAYERS))
    expected = by_hand(generator, latents, changes(rows))
    assert torch.allclose(generator.synthesis(latents, offsets), expected, atol=1e-4)
    assert torch.allclose(generator.synthesis(latents, {i: o.dense() for i, o in offsets.items()}), expected, atol=1e-4)
    assert (expected - generator.synthesis(latents)).abs().mean() > 0.05


def test_a_change_comes_on_top_of_offsets_and_changes_add_up(generator: Generator, latents: Tensor) -> None:
    random = torch.Generator().manual_seed(5)
    shapes = {layer.index: (3, layer.out_channels, layer.in_channels, 3, 3) for layer in LAYERS[:4]}
    before = {index: 0.2 * torch.randn(shape, generator=random) for index, shape in shapes.items()}
    state = restyled(generator, GeneratorState(latents_BLD=latents, offsets=before), changes(3))
    assert torch.allclose(generator(state), by_hand(generator, latents, changes(3), before), atol=2e-4)
    doubled = GeneratorState(latents_BLD=latents, offsets=restyled(generator, GeneratorState(latents_BLD=latents), changes(3)).offsets)
    assert torch.allclose(generator(doubled.scaled(2.0)), by_hand(generator, latents, 2 * changes(3)), atol=2e-4)


def test_gradients_reach_the_change(generator: Generator, latents: Tensor) -> None:
    found = []
    for by_offsets in (True, False):
        change = changes(3).requires_grad_()
        made = (
            generator(restyled(generator, GeneratorState(latents_BLD=latents), change))
            if by_offsets
            else by_hand(generator, latents, change)
        )
        found.append(torch.autograd.grad(made.square().mean(), change)[0])
    assert found[1].norm() > 0 and torch.allclose(found[0], found[1], rtol=1e-2, atol=1e-5 * float(found[1].abs().max()) + 1e-7)


def test_styles_are_what_the_convolutions_get_and_rows_keep_their_order(generator: Generator, latents: Tensor) -> None:
    own = styles(generator, latents)
    assert [(index, style.shape[1]) for index, style in own.items()] == [(layer.index, layer.in_channels) for layer in LAYERS]
    first = generator.conv1.conv.modulation
    assert torch.equal(own[0], first(latents[:, 0])) and torch.allclose(styles(generator, latents * 0)[0], first.bias[None])
    assert all(torch.equal(part, own[index]) for index, part in parted(joined(own), LAYERS).items())
    mean, std = style_spread(generator, samples=50)
    assert mean.shape == std.shape == (style_channels(LAYERS),) and (std > 0).all()


def test_a_style_of_zero_stays_finite_and_wrong_changes_are_refused(generator: Generator, latents: Tensor) -> None:
    own = {0: torch.zeros(3, CHANNELS[4])}
    offsets = as_offsets(generator, own, {0: torch.ones(3, CHANNELS[4])})
    assert torch.isfinite(offsets[0].in_BI).all()
    for index, shape in ((0, (2, CHANNELS[4])), (1, (3, CHANNELS[4]))):
        with pytest.raises(ValueError, match=f"change of style {index}: expected"):
            as_offsets(generator, own, {index: torch.ones(*shape)})
