"""A recipe that the pack or the input cannot serve is refused with exit code 2, the place and the fix, before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from augmentation.config import parse_augment_config
from augmentation.plan import make_augment_plan, recipe_of
from jobs.augment_dataset import main
from pipeline.plan import JobPlan
from tests.augmentation.small_recipe import ROOT

PACK = ROOT / "packs" / "portraits64"
KNOWN = ROOT / "configs" / "instructions" / "portraits.yaml"
REMOVALS = ROOT / "configs" / "instructions" / "removals.yaml"
SMILES = f"instructions: {KNOWN}\nedits: [smile]\naccepted: {{per_sample: 1}}\n"
GRINS = "instructions: ['grin: a face -> a grin']\nedits: [grin]\n"
SHARES = "{'smile, no sad': 0.3, 'no smile, sad': 0.3, 'no smile, no sad': 0.4}"
Info = dict[str, dict[str, dict[str, object]]]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two shards, which a plan lists and does not open."""
    folder = tmp_path_factory.mktemp("raw")
    for name in ("part-0.tar", "part-1.tar"):
        (folder / name).write_bytes(bytes(10240))
    return folder


def changed(folder: Path, change: Callable[[Info], object]) -> Path:
    """Return a copy of the pack whose pack.yaml says something else."""
    info = yaml.safe_load((PACK / "pack.yaml").read_text())
    change(info)
    folder.mkdir()
    (folder / "pack.yaml").write_text(yaml.safe_dump(info))
    for name in [*(one["file"] for one in info["networks"].values()), *info["files"]]:
        os.symlink(PACK / name, folder / name)
    return folder


def without(*networks: str) -> Callable[[Info], object]:
    return lambda info: [info["networks"].pop(name) for name in networks]


def flags_of(folder: Path, recipe: str, *more: str) -> list[str]:
    (folder / "recipe.yaml").write_text(recipe)
    return ["--output", str(folder / "out"), "--recipe", str(folder / "recipe.yaml"), *more]


def planned(folder: Path, recipe: str, *more: str, pack: Path = PACK) -> JobPlan:
    return make_augment_plan(parse_augment_config([*flags_of(folder, recipe, *more), "--pack", str(pack)]))


def refused(capsys: pytest.CaptureFixture[str], folder: Path, recipe: str, *more: str, pack: Path = PACK) -> str:
    """Run the job in this process, which must refuse and leave nothing; return the message."""
    assert main([*flags_of(folder, recipe, *more), "--pack", str(pack)]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("augment_dataset: ") and "Traceback" not in said.err
    assert not (folder / "out").exists()
    return said.err.removeprefix("augment_dataset: ")


def test_a_plan_has_the_recipe_the_input_and_the_shards_to_draw(tmp_path: Path, raw: Path) -> None:
    plan = planned(tmp_path, f"{SMILES}drawn: {{count: 5, shard_size: 2, seed: 7}}", "--input", str(raw))
    assert [shard.name for shard in plan.shards] == ["part-0", "part-1", "drawn-00000", "drawn-00001", "drawn-00002"]
    assert [edit.name for edit in recipe_of(plan).edits] == [one.name for one in plan.instructions] == ["smile"]


def test_pictures_can_be_drawn_without_an_input(tmp_path: Path) -> None:
    plan = planned(tmp_path, "drawn: 4")
    assert [shard.name for shard in plan.shards] == ["drawn-00000"] and plan.instructions == ()


def test_what_the_recipe_says_decides_on_the_output_and_where_it_lies_does_not(tmp_path: Path, raw: Path) -> None:
    more = ["", "seed: 1", "gates: {success: 0.5}", "words: {smile: [happy]}", "drawn: 2"]
    hashes = [planned(tmp_path, SMILES + one, "--input", str(raw)).config_hash for one in more]
    assert len(set(hashes)) == len(hashes)
    (tmp_path / "elsewhere").mkdir()
    assert planned(tmp_path / "elsewhere", f"# the same\n{SMILES}", "--input", str(raw)).config_hash == hashes[0]


def test_a_dry_run_leaves_nothing(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = flags_of(tmp_path, SMILES, "--input", str(raw), "--pack", str(PACK), "--dry_run")
    assert main(flags) == 0
    assert '"todo": 2' in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_a_mistake_in_the_recipe_ends_with_2(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, tmp_path, SMILES.replace("[smile]", "[smiel]"), "--input", str(raw))
    assert said.startswith(f"--recipe {tmp_path / 'recipe.yaml'}: edits, entry 1: unknown instruction 'smiel': did you mean 'smile'?")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--instructions", "a.yaml"], "--instructions: not an option here: `instructions` and `edits` of the recipe say it"),
        (["--keep=original"], "--keep: not an option here: `originals` and `keep_rejected` of the recipe say it"),
        (["--recipes", "a.yaml"], "unknown option '--recipes': did you mean --recipe?"),
    ],
)
def test_what_the_recipe_takes_the_place_of_is_no_option(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str], flags: list[str], expected: str
) -> None:
    assert expected in refused(capsys, tmp_path, SMILES, "--input", str(raw), *flags)


def test_edits_need_an_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, tmp_path, f"{SMILES}drawn: 3")
    assert said.startswith("--input: not given, and the recipe edits pictures; name shards, as for edit_dataset")


@pytest.mark.parametrize(("name", "drawn"), [("drawn-00001", "drawn: {count: 4, shard_size: 2}"), ("part-0.edits-1", "")])
def test_a_shard_that_is_called_like_one_that_the_job_makes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, drawn: str
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / f"{name}.tar").write_bytes(bytes(10240))
    said = refused(capsys, tmp_path, SMILES + drawn, "--input", str(tmp_path / "raw"))
    assert said.startswith(f"--input: the shard '{name}' is called like one that this job makes itself; rename it")
    (tmp_path / "raw" / f"{name}.tar").rename(tmp_path / "raw" / "other.tar")
    assert planned(tmp_path, SMILES + drawn, "--input", str(tmp_path / "raw")).shards[0].name == "other"


def test_an_attribute_that_the_classifier_does_not_know_is_refused(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("- {name: shave, source: a bearded face, target: a face, expects: {beerd: false}}")
    recipe = f"instructions: {tmp_path / 'own.yaml'}\nedits: [shave]\naccepted: {{balance: [beerd]}}\n"
    assert "'beerd', unknown to this pack: did you mean 'beard'?" in refused(capsys, tmp_path, recipe, "--input", str(raw))


def test_a_group_that_nobody_can_belong_to_is_refused_with_the_fix(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = f"instructions: {KNOWN}\nedits: [smile, sad]\naccepted: {{balance: [smile, sad]}}"
    assert refused(capsys, tmp_path, recipe, "--input", str(raw)).startswith(
        f"--recipe {tmp_path / 'recipe.yaml'}: accepted.balance: impossible, nobody shows 'smile' and 'sad' at once; balance one of them, "
        "or give the group 'smile, sad' a share of 0"
    )
    shares = recipe.replace("[smile, sad]}", f"{{attributes: [smile, sad], shares: {SHARES}}}}}")
    assert recipe_of(planned(tmp_path, shares, "--input", str(raw))).balance is not None


def test_attributes_of_different_groups_can_be_balanced(tmp_path: Path, raw: Path) -> None:
    edits = "edits: [smile, no_smile, glasses, no_glasses, hat]"
    recipe = f"instructions: [{KNOWN}, {REMOVALS}]\n{edits}\naccepted: {{balance: [smile, glasses, hat]}}"
    balance = recipe_of(planned(tmp_path, recipe, "--input", str(raw))).balance
    assert balance is not None and [share for _, share in balance.shares] == [1 / 8] * 8


@pytest.mark.parametrize(
    ("change", "recipe", "expected", "fix"),
    [
        (
            without("attributes"),
            f"{GRINS}accepted: {{per_sample: 1}}\ngates: {{success: null}}",
            "edit 'grin': the gate collateral needs an attribute classifier, which pack 'portraits64' lacks; say collateral: null",
            ("success: null", "success: null, collateral: null"),
        ),
        (
            without("identity"),
            SMILES,
            "edit 'smile': the gate identity needs an identity network, which pack 'portraits64' lacks; say identity: null",
            ("edits: [smile]", "edits: [{instruction: smile, gates: {identity: null}}]"),
        ),
        (
            lambda info: info["networks"]["identity"].pop("numbers"),
            SMILES,
            "edit 'smile': the gate identity: the pack's network has no threshold; give a similarity such as identity: 0.5",
            ("edits: [smile]", "edits: [{instruction: smile, gates: {identity: 0.5}}]"),
        ),
        (
            without("identity", "clip"),
            "drawn: {count: 3}",
            "drawn: the gate realism needs CLIP or an identity network, and the pack has neither; say realism: null",
            ("count: 3", "count: 3, realism: null"),
        ),
    ],
    ids=["collateral", "identity", "threshold", "realism"],
)
def test_a_gate_that_the_pack_has_no_network_for_is_refused_and_the_fix_works(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Info], object], recipe: str, expected: str,
    fix: tuple[str, str],
) -> None:  # fmt: skip
    pack, given = changed(tmp_path / "pack", change), ["--input", str(raw)]
    said = refused(capsys, tmp_path, recipe, *given, pack=pack)
    assert said.startswith(f"--recipe {tmp_path / 'recipe.yaml'}: {expected}")
    assert planned(tmp_path, recipe.replace(*fix), *given, pack=pack).pack.name == "portraits64"


def test_targets_need_a_classifier(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack, gates = changed(tmp_path / "pack", without("attributes")), "gates: {success: null, collateral: null}\n"
    said = refused(capsys, tmp_path, f"{GRINS}{gates}accepted: {{per_edit: 3}}", "--input", str(raw), pack=pack)
    assert "accepted: needs labels of the originals, and pack 'portraits64' has no attribute classifier" in said
    assert planned(tmp_path, f"{GRINS}{gates}accepted: {{per_sample: 1}}", "--input", str(raw), pack=pack).shards
