"""Losses against computations written out by hand."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from models.losses import directional_clip_loss, global_clip_loss, identity_loss
from training.clip import contrast, pairwise
from training.identity import ArcFace


def vectors(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_directional_loss_is_one_minus_the_cosine_of_the_two_changes() -> None:
    edited, source, direction = vectors(3), vectors(3, seed=1), vectors(1, seed=2)
    expected = 0.0
    for e, s in zip(edited, source, strict=True):
        delta = e / e.norm() - s / s.norm()
        expected += (1 - float(delta @ direction[0]) / float(delta.norm() * direction[0].norm())) / 3
    assert math.isclose(float(directional_clip_loss(edited, source, direction).mean()), expected, rel_tol=1e-4)


def test_directional_loss_of_an_unchanged_picture_is_finite() -> None:
    same = vectors(2).requires_grad_()
    loss = directional_clip_loss(same, same.detach(), vectors(1, seed=2)).mean()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(same.grad).all()  # type: ignore[union-attr]


def test_global_and_identity_losses_are_zero_for_equal_directions() -> None:
    a = vectors(4)
    assert float(global_clip_loss(a * 3, a).abs().max()) < 1e-6
    assert float(identity_loss(F.normalize(a, dim=1), F.normalize(a, dim=1))) < 1e-6
    assert math.isclose(float(global_clip_loss(-a, a).mean()), 2.0, rel_tol=1e-5)


def test_arcface_adds_the_margin_to_the_angle_of_the_right_person_only() -> None:
    loss_fn = ArcFace(people=3, embed_dim=2, scale=4.0)
    with torch.no_grad():
        loss_fn.centres.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    angle = 0.4
    embedding = torch.tensor([[math.cos(angle), math.sin(angle)]])
    logits = [4 * math.cos(angle + 0.25), 4 * math.sin(angle), -4 * math.cos(angle)]
    expected = -logits[0] + math.log(sum(math.exp(v) for v in logits))
    assert math.isclose(float(loss_fn(embedding, torch.tensor([0]), margin=0.25)), expected, rel_tol=1e-5)


def test_contrast_with_one_positive_each_is_clips_loss() -> None:
    image, text = vectors(5), vectors(5, seed=1)
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T * 7
    target = torch.arange(5)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert torch.allclose(contrast(image, text, torch.eye(5, dtype=torch.bool), torch.tensor(7.0)), expected)


def test_pairwise_loss_falls_when_true_pairs_agree() -> None:
    text = vectors(4)
    positive = torch.eye(4, dtype=torch.bool)
    scale_bias = torch.tensor([10.0, -3.0])
    assert pairwise(text, text, positive, scale_bias) < pairwise(text.roll(1, 0), text, positive, scale_bias)
