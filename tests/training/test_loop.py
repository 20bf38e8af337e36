"""The training loop on a tiny network: one step by hand, averages, the best measurement, and an end that no interruption changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.checkpoint import CheckpointError, Checkpoints
from training.loop import Fitted, LoopConfig, fit
from training.objective import Objective, Setting, Split
from training.share import Share
from training.watch import Watch

STEPS, BATCH, RATE = 20, 8, 0.05
SCORES = {4: 1.0, 8: 5.0, 12: 2.0, 16: 4.0, 20: 3.0}


class Line(Objective[tuple[Tensor, Tensor]]):
    """Fit a plane through noise; `seen` counts samples in a buffer, dropout draws from the step's own random numbers."""

    seen: Tensor

    def __init__(
        self, *, steps: int = STEPS, average: float | None = None, restarts: tuple[int, ...] = (), ahead: int = 0,
        clip_norm: float | None = None, broken_at: int | None = None, dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__(Setting())
        self.steps, self.batch, self.seed = steps, BATCH, 5
        self.average, self.restarts, self.ahead, self.clip_norm, self.broken_at = average, restarts, ahead, clip_norm, broken_at
        torch.manual_seed(0)
        self.net: nn.Module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(dropout), nn.Linear(4, 1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.made: list[torch.optim.Optimizer] = []
        self.history: list[dict[str, Tensor]] = []
        self.drawn_in: set[str] = set()
        self.measured: list[dict[str, Tensor]] = []

    def optimizer(self) -> torch.optim.Optimizer:
        self.made.append(torch.optim.Adam(self.net.parameters(), lr=RATE))
        return self.made[-1]

    def rate(self, step: int) -> float:
        return RATE / (1 + step)

    def draw(self, share: Share) -> tuple[Tensor, Tensor]:
        self.drawn_in.add(threading.current_thread().name)
        x = share.own(torch.randn(share.batch, 3, generator=share.stream()))
        return x, x.sum(1, keepdim=True) + (float("nan") if share.step == self.broken_at else 0.0)

    def forward(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.history.append(copied(self.net))
        error = self.net(batch[0]) - batch[1]
        return error.square().mean(), {"each": error.detach()}

    def observe(self, figures: Mapping[str, Tensor]) -> None:
        self.seen += figures["each"].numel()

    def measure(self, split: Split) -> dict[str, float]:
        assert split == "validation" and not self.net.training and not torch.is_grad_enabled()
        self.measured.append(copied(self.net))
        return {"place": float(self.seen // BATCH)}

    def score(self, numbers: Mapping[str, float]) -> float:
        return SCORES[int(numbers["place"])]

    def network_config(self) -> Mapping[str, object]:
        return {}


class Rooted(Line):
    """A loss that is a number while its gradient is none: the root's slope at 0 is infinite."""

    def forward(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = super().forward((batch[0], torch.zeros_like(batch[1])))
        return loss + (self.net(batch[0]) * 0).square().sum().sqrt(), figures


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def run(
    objective: Line, output: Path, config: LoopConfig | None = None, *, looks: int | None = None, fingerprint: str = "a"
) -> Fitted:  # fmt: skip
    """Fit, stopping at the look number `looks` where given."""
    config = config or LoopConfig(checkpoint_every=5, log_every=1, sheet_every=0)
    watch = Watch(str(output), name="line", steps=objective.steps, say=lambda _: None)
    return fit(
        objective, config, checkpoints=Checkpoints(str(output), keep=config.keep), fingerprint=fingerprint, watch=watch,
        should_stop=after(looks),
    )  # fmt: skip


def after(looks: int | None) -> Callable[[], bool]:
    """Return what says stop from the look number `looks` on."""
    count = iter(range(1, 10**6))
    return lambda: looks is not None and next(count) >= looks


def end(objective: Line) -> dict[str, Tensor]:
    return dict(objective.state_dict())


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def close(a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, within: float = 1e-6) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(value, b[name], rtol=1e-4, atol=within) for name, value in a.items())


def test_steps_are_those_of_a_loop_written_out(tmp_path: Path) -> None:
    objective, plain = Line(dropout=0.0), Line(dropout=0.0)
    fitted = run(objective, tmp_path)
    optimizer = plain.optimizer()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE / (1 + step)
        optimizer.zero_grad()
        plain(plain.draw(Share(seed=5, step=step, batch=BATCH, first=0, count=BATCH)))[0].backward()
        optimizer.step()
    assert same(copied(objective.net), copied(plain.net))
    assert (fitted.step, fitted.finished, fitted.best) == (STEPS, True, {}) and fitted.seconds > 0
    assert not objective.net.training and int(objective.seen) == STEPS * BATCH


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulated_shares_are_the_whole_batch(tmp_path: Path, parts: int) -> None:
    whole, split = Line(dropout=0.0), Line(dropout=0.0)
    run(whole, tmp_path / "whole")
    run(split, tmp_path / "split", LoopConfig(accumulate=parts, sheet_every=0))
    assert close(copied(whole.net), copied(split.net), within=1e-5)
    assert len(split.history) == parts * STEPS and int(split.seen) == STEPS * BATCH
    one, several = whole.made[0].param_groups[0]["params"], split.made[0].param_groups[0]["params"]
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5) for a, b in zip(one, several, strict=True))


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="global batch of 8 .* 3 accumulation"):
        run(Line(), tmp_path, LoopConfig(accumulate=3))


def test_the_average_is_the_sum_of_all_weights_with_falling_factors(tmp_path: Path) -> None:
    decay, plain, averaged = 0.8, Line(), Line(average=0.8)
    run(plain, tmp_path / "plain")
    run(averaged, tmp_path / "averaged")
    assert all(same(a, b) for a, b in zip(plain.history, averaged.history, strict=True))  # it does not change the training
    weights = [*plain.history, copied(plain.net)]  # before each step, and at the end
    factors = [decay**STEPS] + [(1 - decay) * decay ** (STEPS - k) for k in range(1, STEPS + 1)]
    expected = {name: sum(f * w[name] for f, w in zip(factors, weights, strict=True)) for name in weights[0]}
    assert close(copied(averaged.net), expected)  # type: ignore[arg-type]
    assert not close(copied(averaged.net), copied(plain.net))


def test_a_restart_begins_a_new_optimiser_and_nothing_else(tmp_path: Path) -> None:
    plain, restarted = Line(), Line(restarts=(7, 12))
    run(plain, tmp_path / "plain")
    run(restarted, tmp_path / "restarted")
    assert len(plain.made) == 1 and len(restarted.made) == 3
    assert [int(next(iter(optimizer.state.values()))["step"]) for optimizer in restarted.made] == [7, 5, 8]
    assert all(same(plain.history[k], restarted.history[k]) for k in range(8)) and not same(plain.history[8], restarted.history[8])


@pytest.mark.parametrize("average", [None, 0.5])
def test_the_best_measurement_wins_not_the_last(tmp_path: Path, average: float | None) -> None:
    objective = Line(average=average)
    fitted = run(objective, tmp_path, LoopConfig(measure_every=4, sheet_every=0, checkpoint_every=5))
    assert (fitted.best["step"], fitted.best["score"]) == (8, 5.0) and len(objective.measured) == 5
    assert same(copied(objective.net), objective.measured[1])
    assert same(objective.measured[1], objective.history[8]) == (average is None)  # measured are the averaged weights
    undisturbed = Line(average=average)
    run(undisturbed, tmp_path / "undisturbed")
    assert all(same(a, b) for a, b in zip(objective.history, undisturbed.history, strict=True))  # looking changes nothing


@pytest.mark.parametrize("keep", [1, 3])
def test_so_many_checkpoints_stay(tmp_path: Path, keep: int) -> None:
    run(Line(), tmp_path, LoopConfig(checkpoint_every=4, keep=keep, sheet_every=0))
    assert Checkpoints(str(tmp_path), keep=keep).steps() == [12, 16, 20][-keep:]


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_stopped_and_gone_on_it_ends_like_an_undisturbed_one(tmp_path: Path, looks: int) -> None:
    config = LoopConfig(measure_every=4, checkpoint_every=7, log_every=1, sheet_every=0)
    undisturbed, stopped, again = (Line(average=0.9, restarts=(10,)) for _ in range(3))
    expected = run(undisturbed, tmp_path / "undisturbed", config)
    first = run(stopped, tmp_path / "out", config, looks=looks)
    assert (first.step, first.finished) == (5 * looks, False)
    second = run(again, tmp_path / "out", config)
    assert len(again.history) == STEPS - 5 * looks and second.finished and second.seconds >= first.seconds > 0
    assert same(end(again), end(undisturbed))
    assert (second.best["step"], second.best["score"]) == (expected.best["step"], expected.best["score"]) == (8, 5.0)
    a, b = (Checkpoints(str(tmp_path / name), keep=2).newest() for name in ("out", "undisturbed"))
    assert a is not None and b is not None
    for part in ("objective", "average"):
        assert same(a[part], b[part])  # type: ignore[arg-type]
    third = Line(average=0.9, restarts=(10,))
    assert run(third, tmp_path / "out", config).finished and not third.history and same(end(third), end(undisturbed))


def test_a_broken_newest_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    undisturbed, stopped, again = Line(average=0.9), Line(average=0.9), Line(average=0.9)
    run(undisturbed, tmp_path / "undisturbed")
    run(stopped, tmp_path / "out", looks=3)
    newest = tmp_path / "out" / "checkpoints" / "step-00000015.safetensors"
    newest.write_bytes(newest.read_bytes()[:-40] + bytes(40))
    assert run(again, tmp_path / "out").finished
    assert len(again.history) == 10 and newest.name in capsys.readouterr().err
    assert same(end(again), end(undisturbed))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    run(Line(), tmp_path, looks=1)
    with pytest.raises(CheckpointError, match="other settings or data"):
        run(Line(), tmp_path, fingerprint="b")
    assert Checkpoints(str(tmp_path), keep=2).steps() == [5]


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_no_number_ends_it_before_a_checkpoint(tmp_path: Path, log_every: int) -> None:
    config = LoopConfig(checkpoint_every=5, log_every=log_every, sheet_every=0)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        run(Line(broken_at=7), tmp_path, config)
    checkpoints = Checkpoints(str(tmp_path), keep=2)
    assert checkpoints.steps() == [5]
    mended, undisturbed = Line(), Line()
    run(mended, tmp_path, config)
    run(undisturbed, tmp_path / "undisturbed", config)
    assert same(end(mended), end(undisturbed))


def test_weights_that_are_no_numbers_never_reach_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="weights"):
        run(Rooted(), tmp_path, LoopConfig(checkpoint_every=1, log_every=100, sheet_every=0))
    assert Checkpoints(str(tmp_path), keep=2).steps() == []


class Kernels(Line):
    """A line through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4, 1))


def test_kernels_and_their_moments_lie_channels_last_also_after_a_resume(tmp_path: Path) -> None:
    whole, gone_on = Kernels(), Kernels()
    run(whole, tmp_path / "whole")
    run(Kernels(), tmp_path / "parts", looks=1)
    run(gone_on, tmp_path / "parts")
    for line in (whole, gone_on):
        kernels = line.net.get_parameter("1.weight")
        moments = line.made[-1].state[kernels]
        for value in (kernels, moments["exp_avg"], moments["exp_avg_sq"]):
            assert value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()
    assert len(gone_on.history) < len(whole.history) and same(end(whole), end(gone_on))


def test_gradients_are_clipped(tmp_path: Path) -> None:
    free, clipped = Line(steps=1, dropout=0.0), Line(steps=1, dropout=0.0, clip_norm=0.01)
    run(free, tmp_path / "free")
    run(clipped, tmp_path / "clipped")
    norms = [torch.cat([p.grad.flatten() for p in one.net.parameters() if p.grad is not None]).norm() for one in (free, clipped)]
    assert float(norms[0]) > 0.1 and abs(float(norms[1]) - 0.01) < 1e-5


def test_drawing_ahead_changes_nothing(tmp_path: Path) -> None:
    plain, ahead, again = Line(), Line(ahead=3), Line(ahead=3)
    run(plain, tmp_path / "plain")
    run(ahead, tmp_path / "ahead", looks=2)
    run(again, tmp_path / "ahead")
    assert same(end(plain), end(again))
    here = threading.current_thread().name
    assert plain.drawn_in == {here} and here not in again.drawn_in


@pytest.mark.parametrize(
    ("name", "value"), [("accumulate", 0), ("keep", 0), ("checkpoint_every", 0), ("log_every", -1), ("sheet_every", -1)]
)
def test_wrong_settings_are_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"loop.{name} {value}: expected"):
        LoopConfig(**{name: value})
