"""The truth about parts: it agrees with the landmarks, with the attributes, and with the picture's own colours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from portraits import LANDMARK_NAMES, PART_NAMES, Parameters, part_map, render, sample_parameters
from portraits.raw import picture_landmarks, random_frames

BARE = dict.fromkeys(("bald", "hat", "bangs", "beard", "mustache", "eyes_closed", "long_hair", "earrings"), 0.0)


def portraits(n: int = 24, **more: float) -> tuple[Parameters, Tensor]:
    """Return plain portraits without adornment but for `more`, and frames that turn and shift them."""
    generator = torch.Generator().manual_seed(5)
    p = sample_parameters(n, generator).with_values({**BARE, "neutral": 1.0, "no_eyewear": 1.0}).with_values(more)
    return p, random_frames(p, generator=generator)


def shares(maps_BHW: Tensor) -> dict[str, Tensor]:
    """Return the share of pixels of every part, (B,)."""
    return {name: (maps_BHW == index).float().mean((1, 2)) for index, name in enumerate(PART_NAMES)}


def at_landmark(maps_BHW: Tensor, points_BK2: Tensor, name: str) -> list[str]:
    """Return the part at a landmark of every portrait."""
    point = points_BK2[:, None, LANDMARK_NAMES.index(name), None, :]
    found = F.grid_sample(maps_BHW[:, None].float(), point.transpose(1, 2), mode="nearest", align_corners=False)
    return [PART_NAMES[int(index)] for index in found.flatten()]


@pytest.mark.parametrize(
    ("landmark", "part"), [("left_eye", "eyes"), ("right_eye", "eyes"), ("nose_tip", "nose"), ("mouth_centre", "mouth")]
)
def test_landmarks_lie_in_their_parts(landmark: str, part: str) -> None:
    p, frame = portraits()
    assert set(at_landmark(part_map(p, frame, size=192), picture_landmarks(p, frame), landmark)) == {part}


@pytest.mark.parametrize(("attribute", "part"), [("hat", "hat"), ("beard", "beard"), ("glasses", "glasses"), ("sunglasses", "glasses")])
def test_a_part_is_there_where_its_attribute_is(attribute: str, part: str) -> None:
    without, with_it = (shares(part_map(*found, size=96))[part] for found in (portraits(), portraits(**{attribute: 1.0})))
    assert (without == 0).all() and (with_it > 0.004).all()


def test_bald_heads_have_no_hair_and_sunglasses_hide_the_eyes() -> None:
    assert (shares(part_map(*portraits(bald=1.0), size=96))["hair"] == 0).all()
    behind = shares(part_map(*portraits(sunglasses=1.0), size=96))["eyes"]
    assert (behind < 0.2 * shares(part_map(*portraits(), size=96))["eyes"]).all()
    ears = [shares(part_map(*portraits(long_hair=amount), size=96))["hair"] for amount in (0.0, 1.0)]
    assert (ears[1] > ears[0]).all()


@pytest.mark.parametrize(
    ("parameter", "part", "worn"),
    [("hat_hue", "hat", "hat"), ("frame_hue", "glasses", "glasses"), ("iris", "eyes", ""), ("cloth_hue", "clothes", ""),
     ("lip_hue", "mouth", "lipstick"), ("background_hue", "background", "")],
)  # fmt: skip
def test_what_changes_colour_with_a_part_is_that_part(parameter: str, part: str, worn: str) -> None:
    p, frame = portraits(**({worn: 1.0} if worn else {}))
    p = p.slice(slice(0, 12))
    pictures = [render(p.with_values({parameter: value}), frame[:12], size=192) for value in (-0.5, 0.4)]
    changed = (pictures[0] - pictures[1]).abs().amax(1) > 0.12
    shown = part_map(p, frame[:12], size=192) == PART_NAMES.index(part)
    near = F.max_pool2d(shown[:, None].float(), 3, 1, 1)[:, 0] > 0  # pixels on the edge are shared
    assert changed.any() and (changed & ~near).sum() == 0
    if part in ("hat", "clothes", "background"):
        inside = F.max_pool2d((~shown)[:, None].float(), 5, 1, 2)[:, 0] == 0
        assert (changed | ~inside).float().mean() > 0.99


def test_a_part_map_is_the_same_in_any_batch_and_close_to_the_one_of_a_larger_picture() -> None:
    p, frame = portraits(hat=1.0, sunglasses=1.0)
    small, large = part_map(p, frame, size=64), part_map(p, frame, size=192)
    assert small.dtype == torch.uint8 and small.shape == (24, 64, 64)
    assert torch.equal(small[7:8], part_map(p.slice(slice(7, 8)), frame[7:8], size=64))
    assert (small == large[:, 1::3, 1::3]).float().mean() > 0.97
