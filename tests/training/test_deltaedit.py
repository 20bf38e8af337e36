"""DeltaEdit's training learns, from pictures alone, what a direction in CLIP's space means for the styles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.small_kinds import SMALL, objective_of
from training.kinds.deltaedit import DeltaEditConfig, DeltaEditObjective, random_latents
from training.share import Share, shares

torch.set_num_threads(1)


def objective(**settings: object) -> DeltaEditObjective:
    small = SMALL["deltaedit"]
    assert isinstance(small, DeltaEditConfig)
    made = objective_of("deltaedit", replace(small, **settings))  # type: ignore[arg-type]
    assert isinstance(made, DeltaEditObjective)
    return made


def share(training: DeltaEditObjective, step: int = 0, *, accumulate: int = 1) -> list[Share]:
    return shares(seed=training.seed, step=step, batch=training.batch, rank=0, world=1, accumulate=accumulate)


def test_the_change_of_people_not_seen_is_foretold_better_after_training() -> None:
    training = objective(pictures=200, batch=32, width=32)
    before, optimizer = training.measure("validation"), training.train().optimizer()
    for step in range(60):
        optimizer.zero_grad()
        loss, figures = training(training.draw(share(training, step)[0]))
        assert set(figures) == {"l2", "cosine"}
        loss.backward()
        optimizer.step()
    after = training.measure("validation")
    assert after["cosine"] > before["cosine"] + 0.1 and training.score(after) > training.score(before)


def test_pairs_are_standardised_and_directions_are_unit_vectors_that_noise_turns() -> None:
    clean, noisy = (objective(noise=noise) for noise in (0.0, 2.0))
    batches = [training.draw(share(training)[0]) for training in (clean, noisy)]
    assert all(torch.allclose(batch.delta_BE.norm(dim=1), torch.ones(clean.batch), atol=1e-4) for batch in batches if len(batch.delta_BE))
    assert torch.equal(batches[0].source.styles_NS, batches[1].source.styles_NS)
    along = (batches[0].delta_BE * batches[1].delta_BE).sum(1).mean()
    assert 0.2 < along < 0.7
    standard = clean.net.standard(clean.bank.styles_NS)
    assert standard.mean().abs() < 0.1 and 0.8 < standard.std() < 1.2


def test_two_shares_are_the_halves_of_one_batch() -> None:
    training = objective()
    whole = training.draw(share(training)[0])
    halves = [training.draw(part) for part in share(training, accumulate=2)]
    assert torch.equal(torch.cat([half.delta_BE for half in halves]), whole.delta_BE)
    assert torch.equal(torch.cat([half.target.styles_NS for half in halves]), whole.target.styles_NS)


def test_every_second_person_has_slots_of_two() -> None:
    latents = random_latents(objective().frozen[0], 6, seed=3)
    whole = (latents == latents[:, :1]).flatten(1).all(1)
    assert whole[::2].all() and not whole[1::2].all()
    assert torch.equal(latents, random_latents(objective().frozen[0], 6, seed=3))


def test_a_sheet_shows_source_target_and_edit_and_wrong_settings_are_refused() -> None:
    training = objective()
    sheet = training.eval().sheet()
    assert sheet.shape == (8, 3, 3, 64, 64) and sheet.abs().max() <= 1
    assert torch.equal(sheet[1, 0], sheet[2, 1])
    with pytest.raises(ValueError, match="expected 2 or more twice"):
        DeltaEditConfig(noise=-1.0)
