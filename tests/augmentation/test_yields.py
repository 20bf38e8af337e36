"""What became of the edits, counted from manifests, and why a target is not met."""

from __future__ import annotations

from pathlib import Path

import pytest

from augmentation.quotas import read_state
from augmentation.recipe import Drawn, Recipe
from augmentation.yields import met, total, yields
from pipeline.storage import Storage
from tests.augmentation.small_augmented import broken, drawn, original, tried, write_manifest, write_shard
from tests.augmentation.small_recipe import GLASSES, HAT, SMILE, balanced, edit_of

SMILES, SPECTACLES = edit_of(SMILE), edit_of(GLASSES)
RECIPE = Recipe(edits=(SMILES, SPECTACLES, edit_of(HAT)), per_sample=1, drawn=Drawn(count=3))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    rows = [
        original("0", 0),
        tried("0", 0, SMILES, factor=0.5),
        tried("0", 0, SPECTACLES, reason="realism", factor=2.0),
        original("1", 1),
        tried("1", 1, SMILES, factor=1.5),
        tried("2", 2, SMILES, factor=0.7),
        tried("3", 3, SMILES, reason="identity", factor=1.9),
        tried("4", 4, SMILES, reason="success", shown=False),
        broken("5", 5),
    ]
    write_shard(storage, "a", rows)
    write_shard(storage, "b", [tried("0", 0, SMILES, reason="identity", shard="b")])
    write_shard(storage, "drawn-00000", [drawn("d0", 0, seed=0), drawn("d1", 1, seed=1, reason="realism"), drawn("d2", 2, seed=2)])
    return storage


def test_yields_are_those_of_the_manifests(storage: Storage) -> None:
    found = yields(RECIPE, storage)
    assert found["smile"] == {
        "tried": 6, "accepted": 3, "yield": 0.5, "rejected": {"success": 1, "identity": 2}, "median_factor": 0.7,
    }  # fmt: skip
    assert found["glasses"] == {"tried": 1, "accepted": 0, "yield": 0.0, "rejected": {"realism": 1}, "median_factor": None}
    assert found["drawn"] == {"tried": 3, "accepted": 2, "yield": 2 / 3, "rejected": {"realism": 1}, "median_factor": None}


def test_what_was_never_tried_has_no_yield(storage: Storage) -> None:
    found = yields(RECIPE, storage)
    assert found["hat"] == {"tried": 0, "accepted": 0, "yield": None, "rejected": {}, "median_factor": None}
    assert list(found) == ["smile", "glasses", "hat", "drawn"]
    assert "drawn" not in yields(Recipe(edits=(SMILES,), per_sample=1), storage)


def test_reasons_come_in_the_order_of_the_gates(storage: Storage) -> None:
    names = ["realism", "collateral", "identity", "success"]
    write_shard(storage, "c", [tried(f"{n}", n, edit_of(HAT), reason=name, shard="c") for n, name in enumerate(names)])
    assert list(yields(RECIPE, storage)["hat"]["rejected"]) == names[::-1]  # type: ignore[call-overload]


def test_a_shard_without_a_record_does_not_count(storage: Storage) -> None:
    write_manifest(storage, "c", [tried("0", 0, SMILES, shard="c")])
    assert yields(RECIPE, storage)["smile"]["tried"] == 6


def test_an_edit_of_an_earlier_recipe_does_not_count(storage: Storage) -> None:
    assert yields(Recipe(edits=(SPECTACLES,), per_sample=1), storage).keys() == {"glasses"}


def explained(storage: Storage, recipe: Recipe, later: list[str]) -> dict[str, dict[str, object]]:
    state = read_state(recipe, storage, shards=["a"], later=later)
    return {str(one["target"]): one for one in met(state, recipe, yields(recipe, storage))}


def test_a_target_that_is_met_needs_no_reason(storage: Storage) -> None:
    write_shard(storage, "a", [original("0", 0), original("1", 1, "smile"), original("2", 2)])
    write_shard(storage, "a.edits-1", [tried("0", 0, SMILES, target="smile")])
    found = explained(storage, balanced(SMILES), ["a.edits-1"])
    assert found["smile"] == {"target": "smile", "wanted": 2, "originals": 1, "edits": 1, "missing": 0, "why": ""}
    assert found["no smile"]["missing"] == 0 and total([*found.values()]) == 0


def test_a_target_that_is_not_met_says_what_stood_in_its_way(storage: Storage) -> None:
    write_shard(storage, "a", [original(f"{n}", n) for n in range(4)])
    reasons = ["identity", "", "identity", "success"]
    write_shard(storage, "a.edits-1", [tried(f"{n}", n, SMILES, target="smile", reason=reason) for n, reason in enumerate(reasons)])
    one = explained(storage, balanced(SMILES), ["a.edits-1"])["smile"]
    assert (one["wanted"], one["edits"], one["missing"]) == (4, 1, 3) and total([one]) == 3
    assert one["why"] == (
        "4 originals can be edited into it; 4 tries came to 1, most by the gate identity: add edits or input, raise attempts, or "
        "loosen a gate"
    )


def test_a_target_into_which_nobody_can_be_edited_says_so(storage: Storage) -> None:
    write_shard(storage, "a", [original("0", 0, "smile"), original("1", 1, "smile")])
    one = explained(storage, balanced(SMILES), [])["no smile"]
    assert one["missing"] == 2
    assert one["why"] == "no original can be edited into it: of 2, none lacks only what an edit of the recipe gives"
