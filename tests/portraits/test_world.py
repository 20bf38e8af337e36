"""The portraits world: what it draws is what it says it draws."""

from __future__ import annotations

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from portraits import (
    ATTRIBUTE_GROUPS,
    ATTRIBUTE_NAMES,
    IDENTITY_NAMES,
    STYLE_NAMES,
    Parameters,
    captions,
    landmarks,
    parameters_from_latent,
    render_aligned,
    sample_parameters,
    true_of,
)
from portraits.dataset import raw_samples
from portraits.landmarks import LANDMARK_NAMES, apply_frame, compose_frames, invert_frame
from portraits.parameters import LATENT_DIM, same_person
from portraits.raw import picture_landmarks, random_frames


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def people(n: int = 32, seed: int = 0) -> Parameters:
    return sample_parameters(n, stream(seed))


def test_world_is_as_rich_as_promised() -> None:
    assert len(IDENTITY_NAMES) >= 12
    assert len(ATTRIBUTE_NAMES) >= 15
    assert len(STYLE_NAMES) - 1 >= 6


def test_same_parameters_give_the_same_picture_in_any_batch() -> None:
    p = people(20)
    whole = render_aligned(p, size=32)
    assert torch.equal(whole, render_aligned(p, size=32))
    assert torch.allclose(whole[7:8], render_aligned(p.slice(slice(7, 8)), size=32), atol=1e-5)
    assert whole.min() >= -1 and whole.max() <= 1


def test_a_larger_picture_shows_the_same_portrait() -> None:
    p = people(8)
    small, large = render_aligned(p, size=32), render_aligned(p, size=128)
    reduced = torch.nn.functional.avg_pool2d(large, 4)
    assert (small - reduced).abs().mean() < 0.03


@pytest.mark.parametrize("name", [n for n in ATTRIBUTE_NAMES if n not in ("neutral", "no_eyewear")])
def test_every_attribute_shows(name: str) -> None:
    plain = people(6, seed=3).with_values(dict.fromkeys(("bald", "hat", "bangs", "beard", "mustache", "sunglasses"), 0.0))
    plain = plain.with_values({"neutral": 1.0, "no_eyewear": 1.0, "hair_brown": 1.0} if name != "hair_brown" else {"hair_black": 1.0})
    off = plain.with_values({name: 0.0}) if name not in sum(ATTRIBUTE_GROUPS.values(), ()) else plain
    change = (render_aligned(off.with_values({name: 1.0})) - render_aligned(off)).abs().flatten(1)
    assert (change.amax(1) > 0.15).all()


@pytest.mark.parametrize("style", STYLE_NAMES[1:])
def test_every_style_differs_from_a_photo_and_from_the_other_styles(style: str) -> None:
    p = people(4)
    mine = render_aligned(p.with_style(style))
    for other in STYLE_NAMES:
        if other != style:
            assert (mine - render_aligned(p.with_style(other))).abs().mean() > 0.05


def test_groups_hold_exactly_one_member() -> None:
    p = people(500)
    for members in ATTRIBUTE_GROUPS.values():
        assert ((p.columns(members) > 0.5).sum(1) == 1).all()
    assert not ((p["bald"] > 0.5) & (p["long_hair"] > 0.5)).any()


def test_soft_law_agrees_with_the_hard_one_away_from_its_ramps() -> None:
    z = torch.randn(2000, LATENT_DIM, generator=stream())
    hard, soft = parameters_from_latent(z), parameters_from_latent(z, softness=0.05)
    assert (hard.attributes() == soft.attributes()).float().mean() > 0.97


def test_one_person_keeps_identity_only() -> None:
    a, b = people(10, seed=1), people(10, seed=2)
    both = same_person(a, b)
    assert torch.equal(both.columns(IDENTITY_NAMES), a.columns(IDENTITY_NAMES))
    assert torch.equal(both.attributes(), b.attributes())


def test_landmarks_sit_on_what_they_name() -> None:
    """Eyes are darker in the middle than beside; the mouth's landmarks lie left and right of its centre."""
    p = people(64, seed=5).with_values({"no_eyewear": 1.0, "eyes_closed": 0.0, "neutral": 1.0, "bangs": 0.0, "hat": 0.0})
    generator = stream(1)
    frame = random_frames(p, generator=generator)
    points = picture_landmarks(p, frame)
    assert points.abs().max() < 1.0
    from portraits import render

    image = render(p, frame, size=192)
    grid = points[:, :2, None, :]
    at_eyes = torch.nn.functional.grid_sample(image, grid, align_corners=False).mean((1, 3))
    cheek = points[:, 6:7, None, :] * 2.2 - points[:, 7:8, None, :] * 1.2
    at_cheek = torch.nn.functional.grid_sample(image, cheek, align_corners=False).mean((1, 2, 3))
    light_skin = p["skin_tone"].flatten() > 0
    assert (at_eyes.amax(1) < at_cheek)[light_skin].float().mean() > 0.9
    names = {name: i for i, name in enumerate(LANDMARK_NAMES)}
    world = landmarks(p)
    assert (world[:, names["mouth_left"], 0] < world[:, names["mouth_right"], 0]).all()
    assert (world[:, names["chin"], 1] > world[:, names["mouth_centre"], 1]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_frames_invert_and_compose(seed: int) -> None:
    p = people(5, seed=seed)
    frame = random_frames(p, generator=stream(seed))
    points = torch.randn(5, 9, 2, generator=stream(seed))
    back = apply_frame(apply_frame(points, frame), invert_frame(frame))
    assert torch.allclose(back, points, atol=1e-4)
    other = random_frames(p, generator=stream(seed + 1))
    assert torch.allclose(apply_frame(points, compose_frames(other, frame)), apply_frame(apply_frame(points, frame), other), atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_caption_is_true_of_its_own_portrait(seed: int) -> None:
    p = people(8, seed=seed)
    p = Parameters(values=p.values, style=torch.arange(8) % len(STYLE_NAMES))
    said = captions(p, rng=random.Random(seed))
    assert true_of(said, p).diagonal().all()
    assert all(caption.text and "{" not in caption.text for caption in said)


def test_a_caption_mentions_what_it_must() -> None:
    p = people(40).with_values({"glasses": 1.0})
    assert all("glasses" in c.claims for c in captions(p, rng=random.Random(0), must=["glasses"] * 40))


def test_raw_samples_are_reproducible_and_complete() -> None:
    first, again = (list(raw_samples(3, seed=4, first=10)) for _ in range(2))
    assert first == again
    assert [s.key for s in first] == ["000010", "000011", "000012"]
    truth = json.loads(first[0].members["json"])
    assert set(truth["landmarks"]) == set(LANDMARK_NAMES)
    assert set(truth["attributes"]) == set(ATTRIBUTE_NAMES)
    assert truth["caption"].encode() == first[0].members["txt"]
    assert first[0].members["jpg"][:2] == b"\xff\xd8"
