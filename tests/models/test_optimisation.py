"""The loop of all inverters that optimise: early stops, the best so far, seeds and progress, each picture for itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from models.optimisation import Found, Judged, Progress, descend, gradients, mean_slots, picture_seed, picture_sources, targets
from tests.models.optimising import noise_pictures, world

GOALS = (0.2, 3.0, 1.0)


def found(
    goals: Sequence[float], *, stop: float = -1.0, steps: int = 30, rate: float = 0.1, **settings: object
) -> tuple[Found, list[Tensor]]:
    leaves = [torch.zeros(1, requires_grad=True) for _ in goals]

    def judge(rows: Sequence[int], step: int) -> Judged:
        loss = torch.cat([(leaves[row] - goals[row]).square() for row in rows])
        return Judged(objective_A=loss, quality_A=loss.detach(), reached_A=loss.detach() <= stop)

    optimizer = torch.optim.Adam(leaves, lr=rate)
    return descend([[leaf] for leaf in leaves], judge, optimizer=optimizer, steps=steps, **settings), leaves  # type: ignore[arg-type]


def values(result: Found) -> list[float]:
    return [parameters[0].item() for parameters in result.parameters]


def test_a_pictures_result_does_not_depend_on_its_batch() -> None:
    together, _ = found(GOALS, stop=0.01)
    alone = [found([goal], stop=0.01)[0] for goal in GOALS]
    assert values(together) == [values(one)[0] for one in alone]
    assert together.steps == [one.steps[0] for one in alone]
    assert together.quality == [one.quality[0] for one in alone]


def test_each_picture_stops_for_itself() -> None:
    result, leaves = found(GOALS, stop=0.01)
    assert result.steps[0] < result.steps[2] < result.steps[1] == 30
    assert max(result.quality[0], result.quality[2]) <= 0.01 < result.quality[1]
    assert [leaf.item() for leaf in leaves][0] == values(result)[0]  # nothing moved it afterwards
    none, _ = found(GOALS, stop=100.0)
    assert none.steps == [0, 0, 0] and values(none) == [0, 0, 0]


def test_the_best_parameters_are_kept_not_the_last() -> None:
    result, leaves = found([0.5], rate=2.0, steps=2)
    assert values(result) == [0.0] and leaves[0].item() != 0.0
    assert result.quality == [0.25]


def test_nothing_is_kept_or_stopped_before_the_loop_has_settled() -> None:
    result, _ = found([0.0, 1.0], stop=0.0, steps=5, settled=5, rate=0.01)
    assert result.steps == [5, 5]
    assert values(result)[1] > 0.04  # the parameters after all steps


def test_the_last_step_is_judged_too() -> None:
    result, leaves = found([5.0], steps=3)
    assert values(result) == [leaves[0].item()] and values(result)[0] > 0.29


def test_the_rate_of_each_step_is_followed() -> None:
    leaf = torch.zeros(1, requires_grad=True)

    def judge(rows: Sequence[int], step: int) -> Judged:
        loss = leaf * 1.0
        return Judged(objective_A=loss, quality_A=loss.detach(), reached_A=torch.zeros(1, dtype=torch.bool))

    descend([[leaf]], judge, optimizer=torch.optim.SGD([leaf], lr=9.0), steps=3, rate=lambda step: 10.0**-step)
    assert leaf.item() == pytest.approx(-1.11)


def test_progress_counts_all_steps_of_all_pictures() -> None:
    calls: list[tuple[int, int, Tensor]] = []
    progress = Progress(lambda done, total, losses: calls.append((done, total, losses)), pictures=3, steps=30)

    def report(rows: Sequence[int], losses: Tensor, steps: int) -> None:
        progress.advance(rows, losses, steps=steps)

    result, _ = found(GOALS, stop=0.01, report=report)
    done = [call[0] for call in calls]
    assert done == sorted(done) and calls[-1][:2] == (90, 90)
    assert calls[-1][2].tolist() == pytest.approx(result.quality)


def test_a_pictures_seed_is_that_of_its_bytes() -> None:
    pictures = noise_pictures(2)
    assert picture_seed(pictures[0]) == picture_seed(pictures[0].clone()) != picture_seed(pictures[1])
    assert picture_seed(pictures.flip(0)[1]) == picture_seed(pictures[0])
    first, second = (torch.randn(4, generator=source) for source in picture_sources(pictures))
    assert not torch.equal(first, second)


def test_gradients_come_on_inside_no_grad_and_inference_mode() -> None:
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            given = torch.ones(1, 3, 64, 64)
            with gradients():
                x = targets("t", given, size=64).requires_grad_()
                (gradient,) = torch.autograd.grad(x.square().sum(), x)
            assert not torch.is_grad_enabled()
        assert torch.equal(gradient, torch.full_like(gradient, 2.0))


def test_larger_pictures_are_pooled_and_others_refused() -> None:
    assert targets("t", torch.ones(1, 3, 128, 128), size=64).shape == (1, 3, 64, 64)
    for shape in ((1, 3, 32, 32), (1, 1, 64, 64), (3, 64, 64), (1, 3, 64, 96)):
        with pytest.raises(ValueError, match=r"inverter 't': expected pictures \(B, 3, H, H\) with H of 64 or more"):
            targets("t", torch.ones(shape), size=64)


def test_a_mean_latent_of_another_width_is_refused() -> None:
    generator = world().generator
    assert mean_slots(world().mean, generator, name="t").shape == (1, generator.n_latents, generator.style_dim)
    with pytest.raises(ValueError, match=r"inverter 't': mean latent must have shape"):
        mean_slots(torch.zeros(3), generator, name="t")
