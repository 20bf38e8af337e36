"""CLIPInverter's two passes against terms written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from torch import Tensor
from torch.nn import functional as F

from models.losses import CLIPINVERTER_WEIGHTS, LatentPair, View, cycle_loss, cycle_terms, manipulation_terms, weighted_sum


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def view(seed: int) -> View:
    identity = F.normalize(noise(3, 5, seed=seed + 1), dim=1)
    return View(image_BCHW=noise(3, 3, 4, 4, seed=seed), identity_BE=identity, clip_BE=noise(3, 6, seed=seed + 2))


def brightness_distance(a: Tensor, b: Tensor) -> Tensor:
    """Stand in for LPIPS: (B, 1, 1, 1)."""
    return (a - b).mean((1, 2, 3), keepdim=True).abs()


ORIGINAL, EDITED, RETURNED = view(0), view(10), view(20)
CHANGE = noise(3, 6, seed=30)
LATENTS = LatentPair(w_BLD=noise(3, 4, 5, seed=31), mean_LD=noise(5, seed=32))


def first_pass(change: Tensor = CHANGE) -> dict[str, Tensor]:
    return manipulation_terms(EDITED, ORIGINAL, latents=LATENTS, change_BE=change, network=brightness_distance)


def way_back(returned: View = RETURNED, *, edited: View = EDITED, change: Tensor = CHANGE) -> dict[str, Tensor]:
    return cycle_terms(returned, ORIGINAL, edited=edited, latents=LATENTS, change_BE=change, network=brightness_distance)


def clip_distances(made: View, start: View, change: Tensor) -> list[float]:
    """Return 1 - cosine between the change that a pass made in CLIP's space and the one that was asked for."""
    rows = zip(made.clip_BE.numpy(), start.clip_BE.numpy(), change.numpy(), strict=True)
    return [float(distance.cosine(m / np.linalg.norm(m) - s / np.linalg.norm(s), asked)) for m, s, asked in rows]


def expected_terms(made: View, start: View, change: Tensor) -> dict[str, float]:
    gap = made.image_BCHW.numpy() - ORIGINAL.image_BCHW.numpy()
    people = zip(made.identity_BE.numpy(), ORIGINAL.identity_BE.numpy(), strict=True)
    return {
        "l2": float((gap**2).mean()),
        "lpips": float(np.abs(gap.mean((1, 2, 3))).mean()),
        "identity": float(np.mean([distance.cosine(a, b) for a, b in people])),
        "mean_latent": float(np.mean([np.linalg.norm(code - LATENTS.mean_LD.numpy()) for code in LATENTS.w_BLD.numpy()])),
        "clip": float(np.mean(clip_distances(made, start, change))),
    }


def test_both_passes_keep_to_the_original_and_change_from_where_they_started() -> None:
    first = {name: term.item() for name, term in first_pass().items()}
    back = {name: term.item() for name, term in way_back().items()}
    assert first == pytest.approx(expected_terms(EDITED, ORIGINAL, CHANGE), rel=1e-4)
    assert back == pytest.approx(expected_terms(RETURNED, EDITED, -CHANGE), rel=1e-4)


def test_a_perfect_return_costs_nothing_but_its_latents() -> None:
    change = F.normalize(EDITED.clip_BE, dim=1) - F.normalize(ORIGINAL.clip_BE, dim=1)
    back = way_back(ORIGINAL, change=change)
    assert all(abs(back[name].item()) < 1e-5 for name in ("l2", "lpips", "identity", "clip"))
    assert back["mean_latent"] == first_pass()["mean_latent"]


def test_pictures_with_their_own_caption_have_no_clip_term() -> None:
    change = CHANGE.clone()
    change[1] = 0
    kept = clip_distances(EDITED, ORIGINAL, CHANGE)
    assert math.isclose(first_pass(change)["clip"].item(), (kept[0] + kept[2]) / 3, rel_tol=1e-4)
    assert first_pass(torch.zeros(1, 6))["clip"] == 0 and way_back(change=torch.zeros(1, 6))["clip"] == 0


def test_the_way_back_pulls_on_nothing_of_the_first_pass() -> None:
    leaves = [tensor.clone().requires_grad_() for tensor in (EDITED.image_BCHW, EDITED.identity_BE, EDITED.clip_BE, RETURNED.clip_BE)]
    edited = View(image_BCHW=leaves[0], identity_BE=leaves[1], clip_BE=leaves[2])
    returned = View(image_BCHW=RETURNED.image_BCHW, identity_BE=RETURNED.identity_BE, clip_BE=leaves[3])
    weighted_sum(way_back(returned, edited=edited), CLIPINVERTER_WEIGHTS).backward()
    assert [leaf.grad is None for leaf in leaves] == [True, True, True, False]


def test_a_picture_that_came_back_unchanged_has_a_finite_gradient() -> None:
    clip = EDITED.clip_BE.clone().requires_grad_()
    unchanged = View(image_BCHW=EDITED.image_BCHW, identity_BE=EDITED.identity_BE, clip_BE=clip)
    for change in (CHANGE, torch.zeros_like(CHANGE)):
        (gradient,) = torch.autograd.grad(way_back(unchanged, change=change)["clip"], clip)
        assert torch.isfinite(gradient).all()


def test_the_total_weighs_the_terms_and_the_cycle() -> None:
    first, back = first_pass(), way_back()
    weights = {"l2": 1.0, "lpips": 0.6, "identity": 0.1, "mean_latent": 0.005, "clip": 1.0}
    sums = [sum(weights[name] * term.item() for name, term in terms.items()) for terms in (first, back)]
    assert math.isclose(cycle_loss(first, back).item(), sums[0] + sums[1], rel_tol=1e-5)
    assert math.isclose(cycle_loss(first, back, cycle=0.25).item(), sums[0] + sums[1] / 4, rel_tol=1e-5)
    assert math.isclose(cycle_loss(first, back, weights=dict.fromkeys(first, 0.0)).item(), 0.0)


def test_a_term_without_a_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found terms \['clip'\] and weights \['l2'\]"):
        weighted_sum({"clip": torch.tensor(1.0)}, {"l2": 1.0})
    with pytest.raises(ValueError, match=r"found terms \[\] and weights \[\]"):
        weighted_sum({}, {})
