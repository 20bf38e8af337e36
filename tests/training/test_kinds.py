"""Every kind of network: it learns, leaves a pack that fits together, and ends the same however often it was stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from models.pack import Pack
from tests.training.small_kinds import COMPARED, SMALL, frozen, log_of, objective_of, same, train, weights
from training.objective import kind_names, kind_of
from training.run import Result
from training.share import shares

KINDS = tuple(SMALL)
QUICK = ("attributes", "clip", "e4e", "generator", "hypereditor", "hyperstyle", "restyle_e4e")
"""Stopped and gone on with in every test run, each a course of training of its own; the others run with the long ones."""
EDITORS = {"hypereditor", "hairclip", "clip_adapter", "clip_remapper", "styleclip_global"}
BOUND = {"e4e", "psp", "restyle_e4e", "restyle_psp", "w_encoder", "hyperstyle", *EDITORS}
"""Networks that are worth nothing with another generator."""
GONE = {
    "generator": BOUND, "mapping": BOUND, "nada": BOUND, "clip": EDITORS, "w_encoder": {"hyperstyle"},
    "e4e": {"clip_adapter", "clip_remapper"}, "clip_adapter": {"clip_remapper"},
}  # fmt: skip
Undisturbed = Callable[[str], tuple[Path, Result]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return what trains a kind to its end, once."""
    done: dict[str, tuple[Path, Result]] = {}

    def get(network: str) -> tuple[Path, Result]:
        if network not in done:
            output = tmp_path_factory.mktemp(network)
            done[network] = output, train(network, output)
        return done[network]

    return get


def test_every_kind_has_small_settings_here_or_tests_of_its_own() -> None:
    assert set(kind_names()) == {*KINDS, "adversarial"}


@pytest.mark.parametrize("network", KINDS)
def test_the_loss_on_one_batch_falls(network: str) -> None:
    objective = objective_of(network)
    share = shares(seed=objective.seed, step=0, batch=objective.batch, rank=0, world=1, accumulate=1)[0]
    batch, optimizer, losses = objective.draw(share), objective.train().optimizer(), []
    for options in optimizer.param_groups:
        options["lr"] /= 4  # without the schedule's warm-up
    for _ in range(14):
        optimizer.zero_grad()
        loss, _ = objective(batch)
        losses.append(float(loss.detach()))
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), objective.clip_norm or math.inf)
        optimizer.step()
    assert sum(losses[-3:]) / 3 < 0.98 * losses[0], losses


@pytest.mark.parametrize("network", KINDS)
def test_it_ends_with_a_pack_that_holds_together(network: str, undisturbed: Undisturbed) -> None:
    output, result = undisturbed(network)
    steps, trained = objective_of(network).steps, kind_of(network).network
    assert (result.network, result.step, result.steps, result.finished) == (network, steps, steps, True)
    assert len(result.numbers) > 1 and all(math.isfinite(value) for value in result.numbers.values())
    assert result.numbers["training_s"] == result.seconds
    assert json.loads((output / "result.json").read_text()) == asdict(result)
    pack, base = Pack.load(str(result.pack)), frozen()
    assert Path(str(result.pack)) == output / "pack" and pack.sha256 == result.sha256 != base.sha256
    assert pack.info.networks[trained].numbers == result.numbers
    assert set(pack.info.networks) == (set(base.info.networks) - GONE.get(network, set())) | {trained}
    untouched = set(pack.info.networks) - {trained}
    assert all(pack.info.networks[name].sha256 == base.info.networks[name].sha256 for name in untouched)
    assert {path.name for path in (output / "pack").iterdir()} == {"pack.yaml", *pack.info.hashes()}
    told = pack.info.provenance["trained"][trained]  # type: ignore[index]
    assert told["leans_on"] == base.sha256 and told["chosen_step"] == steps and told["precision"] == "float32"
    assert all(torch.isfinite(value).all() for value in weights(output, network).values() if value.is_floating_point())


@pytest.mark.parametrize("network", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in COMPARED])
def test_the_same_seed_ends_with_the_same_bits_though_stopped_at_every_look(network: str, undisturbed: Undisturbed, tmp_path: Path) -> None:
    expected, whole = undisturbed(network)
    torch.manual_seed(99)  # what was drawn before must not matter
    reached = []
    while not (result := train(network, tmp_path, should_stop=lambda: True)).finished:
        assert (result.pack, result.sha256, result.numbers, result.steps) == (None, None, {}, whole.steps)
        assert not (tmp_path / "pack").exists() and log_of(tmp_path)[-1]["step"] == result.step
        reached.append(result.step)
    assert reached == list(range(5, whole.steps, 5))
    assert same(weights(tmp_path, network), weights(expected, network))
    assert log_of(tmp_path) == log_of(expected) and len(log_of(tmp_path)) == whole.steps
    assert {**result.numbers, "training_s": 0} == {**whole.numbers, "training_s": 0}
