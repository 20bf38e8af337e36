"""What an editor is asked in training: other words for an instruction, and two attributes at once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from models.instruction import Instruction, load_instructions
from portraits.captions import PHRASES, STYLE_PHRASES
from tests.training.small_kinds import frozen, objective_of
from training.kinds.hypereditor import HyperEditorConfig, HyperEditorObjective
from training.kinds.styleclip_mapper import MapperConfig
from training.share import Share
from training.wordings import UNSEEN, WORDINGS, paired, requests, said, unseen

ROOT = Path(__file__).parents[2]
TRAINED = load_instructions(ROOT / "configs" / "train" / "editing_instructions.yaml")
BY_NAME = {one.name: one for one in TRAINED}


def test_other_words_say_what_the_instruction_expects_and_never_what_is_kept_unseen() -> None:
    rng = random.Random(1)
    texts = {said(BY_NAME["glasses"], rng) for _ in range(200)}
    assert len(texts) > 5 and all("glasses" in text for text in texts) and not any("spectacles" in text for text in texts)
    styles = {said(BY_NAME["sketch"], rng) for _ in range(100)}
    assert {text.split(" of ")[0] for text in styles} == set(STYLE_PHRASES["sketch"]) - {"a pencil drawing"}


def test_every_unseen_wording_is_known_to_captions_and_kept_from_training() -> None:
    asked = load_instructions(ROOT / "configs" / "instructions" / "unseen_wordings.yaml")
    assert [one.name for one in asked] == [one.name for one in TRAINED] and all(unseen(one.target) for one in asked)
    assert not any(unseen(one.target) for one in TRAINED)
    spoken = " ".join(phrase for phrases in (*PHRASES.values(), *STYLE_PHRASES.values()) for phrase in phrases)
    assert [words for words in UNSEEN if words not in spoken] == ["astonished", "elderly"]  # adjectives


def test_what_captions_have_no_words_for_keeps_its_own() -> None:
    for expects in ({}, {"smile": False}, {"style_unheard": True}):
        assert said(Instruction(name="x", source="a face", target="a calm face", expects=expects), random.Random(0)) == "a calm face"


def test_pairs_are_of_attributes_that_can_be_seen_together() -> None:
    names = {one.name for one in paired(TRAINED, random.Random(0))}
    assert {"smile_glasses", "beard_hat", "glasses_old"} <= names
    assert not names & {"smile_sad", "glasses_sunglasses", "blond_red_hair", "blond_hat", "smile_zombie"}
    both = next(one for one in paired(TRAINED, random.Random(0)) if one.name == "beard_hat")
    assert both.expects == {"beard": True, "hat": True}


def test_pairs_are_drawn_in_their_share_of_the_samples() -> None:
    asked = requests(TRAINED[:8], frozen().clip(), wordings=False, pairs=True, seed=3)
    weights = asked.weights(torch.rand(len(asked.instructions)) + 0.1, pairs=0.25)
    assert weights[:8].sum().item() == pytest.approx(0.75) and weights.sum().item() == pytest.approx(1.0)
    assert torch.equal(asked.targets_KVE[0, 0], asked.targets_KVE[0, 5])  # without wordings an instruction has one text
    assert not torch.equal(asked.targets_KVE[8, 0], asked.targets_KVE[8, 5])


def test_a_batch_asks_in_other_words_for_its_share_and_shows_people_who_lack_one_of_two() -> None:
    config = HyperEditorConfig(only=("smile", "glasses"), widths=(8, 8, 8, 16), inner=8, pictures=60, wordings=0.5, pairs=0.4)
    objective = objective_of("hypereditor", config)
    assert isinstance(objective, HyperEditorObjective)
    batch = objective.draw(Share(seed=1, step=0, batch=400, first=0, count=400))
    assert objective.requests.singles == 2 and (batch.kind_B == 2).float().mean().item() == pytest.approx(0.4, abs=0.08)
    single = batch.kind_B < 2
    assert (batch.wording_B[single] > 0).float().mean().item() == pytest.approx(0.5 * (WORDINGS - 1) / WORDINGS, abs=0.09)
    part = objective.draw(Share(seed=1, step=0, batch=400, first=100, count=50))
    assert torch.equal(part.wording_B, batch.wording_B[100:150]) and torch.equal(part.kind_B, batch.kind_B[100:150])
    shown = objective.data.parameters.slice(objective.rows_of[2]).columns(("smile", "glasses"))
    assert len(shown) > 20 and float(shown.amin(1).amax()) <= 0.5 < float(shown.amax())


@pytest.mark.parametrize("share", [{"wordings": 1.5}, {"pairs": 1.0}, {"pairs": -0.1}])
def test_shares_outside_their_range_are_refused(share: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected shares of the samples"):
        HyperEditorConfig(**share)  # type: ignore[arg-type]


def test_a_mapper_for_one_text_is_not_asked_in_other_words() -> None:
    with pytest.raises(ValueError, match="a mapper knows one text"):
        MapperConfig(pairs=0.2)


def test_a_share_of_the_global_loss_is_added_to_the_directional_one() -> None:
    found = []
    for settings in ({}, {"towards": 0.5}, {"loss": "global"}):
        shape = {"only": ("smile",), "widths": (8, 8, 8, 16), "inner": 8, "pictures": 32, "wordings": 0.0}
        objective = objective_of("hypereditor", HyperEditorConfig(**shape, **settings))  # type: ignore[arg-type]
        torch.manual_seed(0)
        _, figures = objective.forward(objective.draw(Share(seed=1, step=0, batch=4, first=0, count=4)))
        found.append(float(figures["clip"].detach()))
    directional, both, only_global = found
    assert both == pytest.approx(directional + 0.5 * only_global, rel=1e-4) and only_global > 0.1
