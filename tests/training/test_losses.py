"""Losses that one kind of network has to itself, against computations written out by hand."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from training.kinds.clip import contrast, pairwise
from training.kinds.identity import ArcFace


def vectors(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_arcface_adds_the_margin_to_the_angle_of_the_right_person_only() -> None:
    loss_fn = ArcFace(people=3, embed_dim=2, scale=4.0)
    with torch.no_grad():
        loss_fn.centres.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    angle = 0.4
    embedding = torch.tensor([[math.cos(angle), math.sin(angle)]])
    logits = [4 * math.cos(angle + 0.25), 4 * math.sin(angle), -4 * math.cos(angle)]
    expected = -logits[0] + math.log(sum(math.exp(v) for v in logits))
    assert math.isclose(loss_fn(embedding, torch.tensor([0]), margin=0.25).item(), expected, rel_tol=1e-5)


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
