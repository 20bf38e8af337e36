"""Losses against computations written out by hand, the laws that they keep, and finite gradients where they degenerate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from scipy.special import expit
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanSquaredError

from models import losses
from models.perceptual import PerceptualDistance


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(noise(*shape, seed=seed), dim=1)


def close(loss: Tensor, expected: float, *, rel: float = 1e-5) -> bool:
    return math.isclose(loss.detach().item(), expected, rel_tol=rel, abs_tol=1e-6)


def gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    (result,) = torch.autograd.grad(loss(leaf).mean(), leaf)
    return result


def mean_cosine_distance(a: Tensor, b: Tensor) -> float:
    return float(np.mean([distance.cosine(x, y) for x, y in zip(a.flatten(1).numpy(), b.flatten(1).numpy(), strict=True)]))


def brightness_distance(a: Tensor, b: Tensor) -> Tensor:
    """Stand in for LPIPS: (B, 1, 1, 1)."""
    return (a - b).mean((1, 2, 3), keepdim=True).abs()


# pixels


def test_l2_is_the_mean_squared_error() -> None:
    a, b = noise(3, 3, 4, 5), noise(3, 3, 4, 5, seed=1)
    metric = MeanSquaredError()
    metric.update(a.flatten(), b.flatten())
    assert close(losses.l2_loss(a, b), metric.compute().item())
    assert torch.equal(losses.l2_loss(a, b), losses.l2_loss(b, a)) and losses.l2_loss(a, a) == 0
    assert close(losses.l2_loss(3 * a, 3 * b), 9 * metric.compute().item())


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_smooth_l1_is_a_parabola_that_goes_on_as_a_line(beta: float) -> None:
    a, b = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    gaps = [abs(x - y) for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]
    expected = sum(gap * gap / (2 * beta) if gap < beta else gap - beta / 2 for gap in gaps) / len(gaps)
    assert any(gap < beta for gap in gaps) and any(gap > beta for gap in gaps)
    assert close(losses.smooth_l1_loss(a, b, beta=beta), expected)
    assert losses.smooth_l1_loss(a, a, beta=beta) == 0
    # However large the error of one pixel is, it pulls no harder than 1.
    pull = gradient(lambda x: losses.smooth_l1_loss(x, b, beta=beta), 100 * a) * a.numel()
    assert pull.abs().max() <= 1 + 1e-5


def test_smooth_l1_without_a_parabola_is_the_mean_absolute_difference() -> None:
    a, b = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    assert close(losses.smooth_l1_loss(a, b, beta=0), float(np.abs(a.numpy() - b.numpy()).mean()))
    with pytest.raises(ValueError, match="found -1"):
        losses.smooth_l1_loss(a, b, beta=-1)


def test_localisation_is_the_distance_asked_for_and_pulls_the_tuned_generator_alone() -> None:
    tuned, original = noise(2, 3, 4, 4).requires_grad_(), noise(2, 3, 4, 4, seed=1).requires_grad_()
    by_hand = (tuned - original).detach().numpy()
    losses.localisation_loss(tuned, original).backward()
    assert original.grad is None and tuned.grad is not None
    assert np.allclose(tuned.grad.numpy(), 2 * by_hand / by_hand.size, atol=1e-6)
    expected = np.abs(by_hand.mean((1, 2, 3))).mean()
    assert close(losses.localisation_loss(tuned, original, distance=brightness_distance), float(expected))
    assert losses.localisation_loss(tuned, tuned) == 0


# features of frozen networks


def test_lpips_is_the_mean_over_the_pictures() -> None:
    a, b = noise(3, 3, 64, 64).clamp(-1, 1), noise(3, 3, 64, 64, seed=1).clamp(-1, 1)
    judge = PerceptualDistance()
    expected = judge.distance(judge.features(a), judge.features(b)).numpy().mean()
    assert close(losses.lpips_loss(a, b, network=judge.network), float(expected), rel=1e-4)
    assert losses.lpips_loss(a, a, network=judge.network) == 0


def test_lpips_refuses_a_network_that_mixes_pictures() -> None:
    with pytest.raises(ValueError, match=r"each of 2 pictures, found shape \(\)"):
        losses.lpips_loss(noise(2, 3, 4, 4), noise(2, 3, 4, 4), network=F.l1_loss)


def test_identity_is_one_minus_the_cosine() -> None:
    a, b = unit(4, 6), unit(4, 6, seed=1)
    assert close(losses.identity_loss(a, b), mean_cosine_distance(a, b))
    assert torch.equal(losses.identity_loss(a, b), losses.identity_loss(b, a))
    assert close(losses.identity_loss(a, a), 0) and close(losses.identity_loss(-a, a), 2)


def test_moco_takes_raw_features_of_any_length() -> None:
    a, b = noise(4, 6), noise(4, 6, seed=1)
    expected = mean_cosine_distance(a, b)
    assert close(losses.moco_loss(a, b), expected) and close(losses.moco_loss(7 * a, b / 3), expected)
    assert close(losses.moco_loss(a[..., None, None], b[..., None, None]), expected)
    assert close(losses.moco_loss(a[:1, :, None, None], b[:1, :, None, None]), mean_cosine_distance(a[:1], b[:1]))
    assert close(losses.moco_loss(a, a), 0) and close(losses.moco_loss(-a, a), 2)
    # The length does not matter, so the gradient has no part along the features.
    along = gradient(lambda x: losses.moco_loss(x, b), a) * a
    assert along.sum(1).abs().max() < 1e-6


def test_parsing_adds_up_the_levels() -> None:
    sizes = [(4, 16), (8, 8), (8, 4), (16, 2), (16, 1)]
    made = [noise(2, width, side, side, seed=level) for level, (width, side) in enumerate(sizes)]
    wanted = [noise(2, width, side, side, seed=9 + level) for level, (width, side) in enumerate(sizes)]
    expected = sum(mean_cosine_distance(a, b) for a, b in zip(made, wanted, strict=True))
    assert close(losses.parsing_loss(made, wanted), expected)
    assert close(losses.parsing_loss([3 * level for level in made], wanted), expected)
    assert close(losses.parsing_loss(made, made), 0)


def test_parsing_refuses_levels_that_do_not_pair_up() -> None:
    with pytest.raises(ValueError, match="found 2 and 1"):
        losses.parsing_loss([noise(1, 2), noise(1, 2)], [noise(1, 2)])
    with pytest.raises(ValueError, match="at least one, found 0 and 0"):
        losses.parsing_loss([], [])
    with pytest.raises(ValueError, match=r"parsing_loss, level 1.*\(1, 2\) and \(1, 3\)"):
        losses.parsing_loss([noise(1, 2), noise(1, 2)], [noise(1, 2), noise(1, 3)])


# CLIP


def test_directional_loss_is_one_minus_the_cosine_of_the_two_changes() -> None:
    edited, source, direction = noise(3, 6), noise(3, 6, seed=1), noise(1, 6, seed=2)
    for row, (e, s) in enumerate(zip(edited.numpy(), source.numpy(), strict=True)):
        change = e / np.linalg.norm(e) - s / np.linalg.norm(s)
        expected = distance.cosine(change, direction[0].numpy())
        assert close(losses.directional_clip_loss(edited, source, direction)[row], float(expected), rel=1e-4)


def test_directional_loss_turns_round_with_the_direction_and_knows_no_lengths() -> None:
    edited, source, direction = noise(3, 6), noise(3, 6, seed=1), noise(3, 6, seed=2)
    loss = losses.directional_clip_loss(edited, source, direction)
    assert torch.allclose(losses.directional_clip_loss(edited, source, -direction), 2 - loss, atol=1e-5)
    assert torch.allclose(losses.directional_clip_loss(source, edited, direction), 2 - loss, atol=1e-5)
    assert torch.allclose(losses.directional_clip_loss(2 * edited, 5 * source, 9 * direction), loss, atol=1e-5)


def test_global_loss_is_one_minus_the_cosine_to_the_text() -> None:
    edited, target = noise(4, 6), noise(1, 6, seed=1)
    expected = [distance.cosine(row, target[0].numpy()) for row in edited.numpy()]
    assert np.allclose(losses.global_clip_loss(edited, target).numpy(), expected, atol=1e-6)
    assert torch.allclose(losses.global_clip_loss(3 * edited, edited), torch.zeros(4), atol=1e-6)
    assert torch.allclose(losses.global_clip_loss(-edited, edited), torch.full((4,), 2.0))


# latents


def test_mean_latent_takes_one_norm_over_all_slots() -> None:
    w, mean = noise(3, 5, 4), noise(5, 4, seed=1)
    expected = np.mean(
        [math.sqrt(sum((x - m) ** 2 for x, m in zip(code.ravel(), mean.numpy().ravel(), strict=True))) for code in w.numpy()]
    )
    assert close(losses.mean_latent_loss(w, mean), float(expected))
    one = noise(4, seed=2)
    shapes = [losses.mean_latent_loss(w, shape) for shape in (one, one[None], one.expand(5, 4))]
    assert torch.equal(shapes[0], shapes[1]) and torch.equal(shapes[0], shapes[2])
    assert close(losses.mean_latent_loss(mean + 2 * (w - mean), mean), 2 * float(expected))


def test_latent_losses_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(5, 4\), \(1, 4\) or \(4,\), found \(3, 5, 4\)"):
        losses.mean_latent_loss(noise(3, 5, 4), noise(3, 5, 4))
    with pytest.raises(ValueError, match=r"found shape \(3, 4\)"):
        losses.delta_loss(noise(3, 4))


def test_delta_adds_up_how_far_each_slot_is_from_the_first() -> None:
    w = noise(3, 5, 4)
    expected = sum(distance.euclidean(code[slot], code[0]) for code in w.numpy() for slot in range(1, 5)) / 3
    assert close(losses.delta_loss(w), float(expected))
    assert close(losses.delta_loss(w + noise(3, 1, 4, seed=1)), float(expected)), "what all slots share costs nothing"
    assert losses.delta_loss(w[:, :1].expand(3, 5, 4)) == 0


def test_delta_leaves_slots_alone_that_their_stage_has_not_reached() -> None:
    shared, differences = noise(2, 1, 4), noise(2, 2, 4, seed=1)
    early = torch.cat([shared, shared + differences, shared.expand(2, 3, 4)], dim=1)
    assert torch.equal(losses.delta_loss(early), losses.delta_loss(early[:, :3]))
    assert not gradient(losses.delta_loss, early)[:, 3:].any()


# adversarial


def test_adversarial_losses_are_log_likelihoods() -> None:
    real, fake = 4 * noise(5, 1).double(), 4 * noise(5, 1, seed=1).double()
    p_real, p_fake = expit(real.numpy()), expit(fake.numpy())
    assert close(losses.generator_adversarial_loss(fake), float(-np.log(p_fake).mean()))
    assert close(losses.discriminator_adversarial_loss(real, fake), float(-np.log(p_real).mean() - np.log(1 - p_fake).mean()))
    undecided = torch.zeros(3, 1)
    assert close(losses.discriminator_adversarial_loss(undecided, undecided), 2 * math.log(2))


def test_the_generator_still_learns_where_the_discriminator_is_sure() -> None:
    # Does not saturate: the gradient is -sigmoid(-D), which goes to -1 where log(1 - sigmoid(D)) would go to 0.
    logits = torch.tensor([-30.0, 0.0, 30.0])
    assert torch.allclose(gradient(losses.generator_adversarial_loss, logits) * 3, torch.tensor([-1.0, -0.5, 0.0]), atol=1e-6)


def test_r1_is_the_squared_slope_and_can_be_differentiated_again() -> None:
    # D(x) = a.x + q |x|^2 / 2 has the gradient a + q x.
    real, a = noise(3, 2, 4, 4).double().requires_grad_(), noise(2, 4, 4, seed=1).double()
    q = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    logits = ((a * real).flatten(1).sum(1) + q * real.square().flatten(1).sum(1) / 2)[:, None]
    penalty = losses.r1_penalty(logits, real)
    slopes = a.numpy() + 0.7 * real.detach().numpy()
    assert close(penalty, float((slopes**2).sum() / 3))
    penalty.backward()
    assert q.grad is not None and close(q.grad, float(2 * (slopes * real.detach().numpy()).sum() / 3))


def test_r1_refuses_pictures_that_carry_no_gradient() -> None:
    with pytest.raises(ValueError, match="found requires_grad=False"):
        losses.r1_penalty(noise(2, 1), noise(2, 3, 4, 4))


# all


PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2_loss": losses.l2_loss,
    "smooth_l1_loss": losses.smooth_l1_loss,
    "localisation_loss": losses.localisation_loss,
    "lpips_loss": lambda a, b: losses.lpips_loss(a, b, network=brightness_distance),
    "identity_loss": losses.identity_loss,
    "moco_loss": losses.moco_loss,
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_different_shapes_are_refused_not_broadcast(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*found \(2, 3, 4, 4\) and \(1, 3, 4, 4\)"):
        PAIRS[name](noise(2, 3, 4, 4), noise(1, 3, 4, 4))


SAME, ZERO, OTHER = noise(2, 6), torch.zeros(2, 6), noise(2, 6, seed=1)
CODES = noise(1, 1, 4).expand(2, 5, 4)
DEGENERATE: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "l2, equal": (lambda x: losses.l2_loss(x, SAME), SAME),
    "smooth l1, equal, no parabola": (lambda x: losses.smooth_l1_loss(x, SAME, beta=0), SAME),
    "identity, zero": (lambda x: losses.identity_loss(x, SAME), ZERO),
    "moco, equal": (lambda x: losses.moco_loss(x, SAME), SAME),
    "moco, zero": (lambda x: losses.moco_loss(x, SAME), ZERO),
    "parsing, dead maps": (lambda x: losses.parsing_loss([x, x], [ZERO, SAME]), ZERO),
    "directional, unchanged picture": (lambda x: losses.directional_clip_loss(x, SAME, OTHER), SAME),
    "directional, zero embedding": (lambda x: losses.directional_clip_loss(x, SAME, OTHER), ZERO),
    "directional, no direction": (lambda x: losses.directional_clip_loss(x, SAME, ZERO), OTHER),
    "global, zero embedding": (lambda x: losses.global_clip_loss(x, SAME), ZERO),
    "mean latent, there": (lambda x: losses.mean_latent_loss(x, CODES[0]), CODES),
    "delta, one w": (losses.delta_loss, CODES),
    "generator, hopeless": (losses.generator_adversarial_loss, torch.tensor([-1e30, 1e30])),
    "discriminator, certain": (lambda x: losses.discriminator_adversarial_loss(x, -x), torch.tensor([-1e30, 1e30])),
    "r1, flat": (lambda x: losses.r1_penalty((0 * x**2).sum(1), x), OTHER),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_losses_and_gradients_are_finite_at_degenerate_input(case: str) -> None:
    loss, x = DEGENERATE[case]
    assert torch.isfinite(loss(x.clone().requires_grad_())).all()
    assert torch.isfinite(gradient(loss, x)).all()
