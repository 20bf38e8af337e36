"""Projection into W and W+: closer pictures, the same result in every batch, and networks that stay as they were."""

from __future__ import annotations

import pytest
import torch

from models.inverters import EncoderInverter
from models.projection import Projection, ProjectionConfig
from models.similarity import Similarity, SimilarityWeights
from models.state import GeneratorState
from models.stylegan2 import Generator
from tests.models.optimising import (
    CLOSE,
    held_out_portraits,
    joined,
    left_alone,
    lpips,
    made_pictures,
    noise_pictures,
    portraits,
    same,
    world,
)


def projection(**settings: object) -> Projection:
    return Projection("w_projection", **world().common(), config=ProjectionConfig(**{"steps": 6, **settings}), encoder=world().encoder())  # type: ignore[arg-type]


def losses(state: GeneratorState, pictures: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return world().similarity()(world().generator(state), pictures)


def test_projection_finds_pictures_that_the_generator_can_make() -> None:
    pictures = made_pictures(2)
    start = GeneratorState(latents_BLD=world().generator.repeat(world().mean[None].expand(2, -1)))
    for space in ("w", "w+"):
        found = projection(space=space, steps=40).invert(pictures)
        assert (losses(found, pictures) < 0.5 * losses(start, pictures)).all(), space
        one = found.latents_BLD[:, :1].expand_as(found.latents_BLD)
        assert torch.equal(found.latents_BLD, one) == (space == "w")
        assert not found.offsets


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_batch_equals_its_single_pictures(space: str) -> None:
    pictures = noise_pictures(3)
    inverter = projection(space=space, lockstep=2)
    batch = inverter.invert(pictures)
    assert same(batch, joined([inverter.invert(picture) for picture in pictures.split(1)]))
    assert torch.equal(batch.latents_BLD, inverter.invert(pictures).latents_BLD)


def test_networks_are_left_alone_whatever_the_caller_switched_off() -> None:
    pictures = made_pictures(1)
    with left_alone(world().networks):
        plain = projection().invert(pictures)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert torch.equal(projection().invert(pictures.clone()).latents_BLD, plain.latents_BLD)
    assert not plain.latents_BLD.requires_grad


def test_the_schedule_is_that_of_stylegan2() -> None:
    config = ProjectionConfig()
    assert config.rate(0) == 0 and config.rate(25) == pytest.approx(0.05)
    assert config.rate(50) == config.rate(750) == pytest.approx(0.1)
    assert config.rate(875) == pytest.approx(0.05) and config.rate(999) < 1e-5
    assert config.noise_scale(0) == 0.05 and config.noise_scale(375) == pytest.approx(0.0125) and config.noise_scale(750) == 0
    assert config.settled == 750


def test_the_latents_spread_is_the_root_mean_squared_distance_from_their_mean() -> None:
    z = torch.randn(4000, world().generator.style_dim, generator=torch.Generator().manual_seed(1))
    w = world().generator.mapping(z)
    assert projection().latent_std() == pytest.approx((w - w.mean(0)).norm(dim=1).square().mean().sqrt().item(), rel=0.05)


def test_a_picture_that_is_close_enough_stops_and_the_others_go_on() -> None:
    close = made_pictures(1)
    calls: list[int] = []
    inverter = projection(steps=10, noise=0.0, stop_lpips=1e-3, start="encoder")
    inverter.encoder = _Knows(close)
    inverter.on_step = lambda done, total, losses: calls.append(done)
    pictures = torch.cat([close, noise_pictures(1)])
    found = inverter.invert(pictures)
    assert calls[0] == 10 and calls[-1] == 20 and len(calls) == 12  # 10 at once, then step by step, and the last loss
    assert losses(found, pictures)[0] < 1e-4


class _Knows:
    """Stands in for an encoder: gives every picture the latents of the one that it was made from."""

    name = "knows"

    def __init__(self, picture: torch.Tensor) -> None:
        z = torch.randn(1, world().generator.style_dim, generator=torch.Generator().manual_seed(3))
        self.w = world().generator.repeat(world().generator.mapping(z))

    def invert(self, images_BCHW: torch.Tensor) -> GeneratorState:
        return GeneratorState(latents_BLD=self.w.expand(len(images_BCHW), -1, -1))


def test_settings_that_cannot_work_are_named() -> None:
    pixels = Similarity(SimilarityWeights(lpips=0, identity=0, parsing=0))
    common = {**world().common(), "similarity": pixels}
    with pytest.raises(ValueError, match="'p': stop_lpips needs the LPIPS term; the similarity has pixel"):
        Projection("p", **common, config=ProjectionConfig(stop_lpips=0.1))
    with pytest.raises(ValueError, match="'p': start is 'encoder', but no encoder is given"):
        Projection("p", **common, config=ProjectionConfig(start="encoder"))
    with pytest.raises(ValueError, match="ramp_down is a share of the steps, from 0 to 1, found 2"):
        ProjectionConfig(ramp_down=2)
    with pytest.raises(ValueError, match="steps and lockstep must be 1 or more, found 0 and 16"):
        ProjectionConfig(steps=0)


def test_on_a_portrait_wplus_projection_improves_on_the_encoder() -> None:
    pack, picture = portraits(), held_out_portraits(1)
    generator: Generator = pack.generator()
    similarity = Similarity(CLOSE, lpips=lpips())
    encoder = pack.inverter("e4e")
    assert isinstance(encoder, EncoderInverter)
    config = ProjectionConfig(space="w+", steps=12, learning_rate=0.05, noise=0.0, start="encoder")
    found = Projection("p", generator=generator, similarity=similarity, mean_latent=pack.mean_latent(), config=config, encoder=encoder)
    with torch.no_grad():
        before, after = (similarity(generator(inverter.invert(picture)), picture) for inverter in (encoder, found))
    assert after < 0.8 * before
