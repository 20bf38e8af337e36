"""Similarity gives each picture its own loss, says what it compares, and agrees with the losses of the papers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models.losses import identity_loss, l2_loss, lpips_loss, parsing_loss, smooth_l1_loss
from models.parser import FaceParser
from models.similarity import Similarity, SimilarityWeights
from tests.models.optimising import lpips, noise_pictures, world

ALL = SimilarityWeights(pixel=1.0, lpips=0.8, identity=0.1, parsing=0.5)


@pytest.fixture(scope="module")
def parser() -> FaceParser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return FaceParser(parts=("skin", "hair"), widths=(4, 4, 4, 4, 4)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def similarity(parser: FaceParser) -> Similarity:
    return Similarity(ALL, lpips=lpips(), identity=world().identity, parser=parser)


def test_the_mean_of_each_term_is_the_loss_of_the_papers(similarity: Similarity, parser: FaceParser) -> None:
    a, b = noise_pictures(3), noise_pictures(3, seed=5)
    parts = similarity.parts(similarity.see(a), similarity.see(b))
    wanted = {
        "pixel": l2_loss(a, b),
        "lpips": lpips_loss(a, b, network=lpips()),
        "identity": identity_loss(world().identity(a), world().identity(b)),
        "parsing": parsing_loss(parser.features(a), parser.features(b)),
    }
    assert similarity.terms == tuple(parts) == tuple(wanted)
    for name, loss in wanted.items():
        assert parts[name].shape == (3,)
        assert parts[name].mean().item() == pytest.approx(loss.item(), rel=1e-5), name
    total = sum(weight * wanted[name] for name, weight in {"pixel": 1.0, "lpips": 0.8, "identity": 0.1, "parsing": 0.5}.items())
    assert similarity(a, b).mean().item() == pytest.approx(float(total), rel=1e-5)
    smooth = Similarity(SimilarityWeights(lpips=0, identity=0, parsing=0), pixel="smooth_l1")
    assert smooth(a, b).mean().item() == pytest.approx(smooth_l1_loss(a, b).item(), rel=1e-5)


def test_a_pictures_loss_does_not_depend_on_its_neighbours(similarity: Similarity) -> None:
    a, b = noise_pictures(4), noise_pictures(4, seed=5)
    together = similarity(a, b)
    alone = torch.cat([similarity(a[i : i + 1], b[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, rtol=1e-5)
    chosen = similarity(a[[2, 0]], similarity.see(b).rows([2, 0]))
    assert torch.allclose(chosen, together[[2, 0]], rtol=1e-5)


def test_a_term_without_its_network_is_left_out_and_named() -> None:
    found = Similarity(ALL, lpips=lpips())
    assert (found.terms, found.missing) == (("pixel", "lpips"), ("identity", "parsing"))
    assert found.weighted(SimilarityWeights(pixel=2, lpips=0, identity=0, parsing=0)).terms == ("pixel",)
    with pytest.raises(ValueError, match=r"no term is left.*identity"):
        Similarity(SimilarityWeights(pixel=0, lpips=0, parsing=0))
    with pytest.raises(ValueError, match="weight lpips: expected 0 or more, found -1"):
        SimilarityWeights(lpips=-1)


def test_only_pictures_larger_than_256_are_pooled() -> None:
    pixels = Similarity(SimilarityWeights(lpips=0, identity=0, parsing=0))
    large, small = torch.rand(1, 3, 512, 512), noise_pictures(1)
    assert torch.equal(pixels.see(large).image_BCHW, F.adaptive_avg_pool2d(large, 256))
    assert torch.equal(pixels.see(small).image_BCHW, small)


def test_the_gradient_reaches_the_picture_through_every_term(similarity: Similarity) -> None:
    wanted = similarity.see(noise_pictures(1, seed=5))
    picture = noise_pictures(1).requires_grad_()
    for name, value in similarity.parts(similarity.see(picture), wanted).items():
        (gradient,) = torch.autograd.grad(value.sum(), picture, retain_graph=True)
        assert gradient.abs().max() > 0, name
