"""Windows lie inside the picture, show what they cut out, and are shared by pictures that are compared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.data import seeded
from training.windows import seen_through, windows


def ramp() -> Tensor:
    """Return a picture whose red is its x and whose green is its y, at pixel centres, in [-1, 1]."""
    axis = (torch.arange(64) + 0.5) / 32 - 1
    return torch.stack([axis.expand(64, 64), axis[:, None].expand(64, 64), torch.zeros(64, 64)])[None]


def test_windows_lie_inside_the_picture_and_some_are_the_whole_one() -> None:
    side, x, y = windows(4000, zoom=0.25, whole=0.5, generator=seeded(1)).unbind(1)
    assert side.min() >= 0.75 and side.max() <= 1
    assert (x.abs() + side <= 1 + 1e-6).all() and (y.abs() + side <= 1 + 1e-6).all()
    assert 0.46 < float((side == 1).float().mean()) < 0.54
    assert x.min() < -0.15 and x.max() > 0.15 and abs(float(x.mean())) < 0.01
    assert (windows(100, zoom=0.0, whole=0.0, generator=seeded(1))[:, 0] == 1).all()


def test_a_window_shows_its_part_of_the_picture() -> None:
    window = torch.tensor([[0.8, 0.1, -0.15]])
    shown = seen_through(ramp(), window)
    inner = shown[:, :, 2:-2, 2:-2]  # the outermost pixels may lie beyond the last centre
    wanted = ramp()[:, :, 2:-2, 2:-2] * 0.8
    assert torch.allclose(inner[:, 0], wanted[:, 0] + 0.1, atol=1e-5) and torch.allclose(inner[:, 1], wanted[:, 1] - 0.15, atol=1e-5)
    whole = torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.allclose(seen_through(ramp(), whole), ramp(), atol=1e-5)


def test_gradients_reach_only_what_a_window_shows() -> None:
    picture = ramp().requires_grad_()
    seen_through(picture, torch.tensor([[0.75, 0.25, 0.0]])).sum().backward()
    assert picture.grad is not None
    assert (picture.grad[..., :14] == 0).all() and (picture.grad[:, :, 10:54, 18:62] > 0).all()


@pytest.mark.parametrize(("zoom", "whole"), [(1.0, 0.5), (-0.1, 0.5), (0.2, 1.5)])
def test_shares_outside_their_range_are_refused(zoom: float, whole: float) -> None:
    with pytest.raises(ValueError, match="zoom"):
        windows(2, zoom=zoom, whole=whole, generator=seeded(1))
