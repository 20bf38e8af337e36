"""StyleGAN-NADA trains the layers that a text pulls at, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.small_kinds import SMALL, frozen, objective_of
from training.kinds.nada import NadaConfig, NadaObjective
from training.objective import Setting, SettingError, build_objective
from training.share import shares


def objective(**settings: object) -> NadaObjective:
    small = SMALL["nada"]
    assert isinstance(small, NadaConfig)
    made = objective_of("nada", replace(small, **settings))  # type: ignore[arg-type]
    assert isinstance(made, NadaObjective)
    return made


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_a_step_moves_the_convolutions_of_the_chosen_slots_alone(layers: int) -> None:
    training = objective(layers=layers)
    share = shares(seed=training.seed, step=0, batch=training.batch, rank=0, world=1, accumulate=1)[0]
    batch, optimizer = training.draw(share), training.train().optimizer()
    chosen = training.chosen_slots(batch.probe_PD)
    assert len(chosen) == (layers or len(training.slots)) and chosen <= set(training.slots)
    before = {name: value.clone() for name, value in training.net.state_dict().items()}
    loss, _ = training(batch)
    loss.backward()
    optimizer.step()
    moved = {name for name, value in training.net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, slot in training.slot_of.items() if slot in chosen}
    twin = frozen().generator()
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())


def test_more_layers_than_there_are_and_no_text_are_refused() -> None:
    with pytest.raises(SettingError, match="settings.layers 10: this generator's convolutions have 9 slots"):
        build_objective("nada", NadaConfig(layers=10), Setting(pack=frozen()))
    with pytest.raises(ValueError, match="expected two texts"):
        NadaConfig(target=" ")
