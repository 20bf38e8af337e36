"""The recipe of a whole pack: stages in order, results that are taken again only for their own settings, and the joined pack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.pack import Pack, add_file, start_pack, write_network
from pipeline.lock import OutputError
from tests.training.small_kinds import SMALL, frozen
from training.kinds.identity import IdentityConfig
from training.objective import FITTED, Setting, build_objective, kind_of
from training.pack import DONE, HEAD, HYPEREDITOR_DETAILS, STRENGTHS, Recipe, join, recipe, set_aside
from training.pack_place import settle
from training.run import PACK, RESULT

NAMES = tuple(recipe().stages)


def trained(plan: Recipe, name: str) -> str:
    return kind_of(plan.stages[name].network).network


def changed(plan: Recipe, name: str, settings: object) -> Recipe:
    return replace(plan, stages={**plan.stages, name: replace(plan.stages[name], settings=settings)})


def upstream(plan: Recipe, name: str) -> set[str]:
    needs = set(plan.stages[name].needs.values())
    return needs.union(*(upstream(plan, need) for need in needs))


@pytest.mark.parametrize("name", NAMES)
def test_stages_need_only_earlier_ones_that_train_what_they_lean_on(name: str) -> None:
    plan = recipe()
    stage, kind = plan.stages[name], kind_of(plan.stages[name].network)
    assert type(stage.settings) is kind.config
    for network, need in stage.needs.items():
        assert NAMES.index(need) < NAMES.index(name) and trained(plan, need) == network
    assert set(kind.needs) <= set(stage.needs)


def test_the_pack_has_every_network_once() -> None:
    plan = recipe()
    packed = plan.packed()
    networks = [trained(plan, name) for name in packed]
    assert len(set(networks)) == len(networks) and set(frozen().info.networks) - set(FITTED) <= set(networks)
    assert {"psp", "restyle_e4e", "restyle_psp", "hyperstyle", "parser"} <= set(networks)
    assert "generator" in packed and not {"base", "refined", "directional", "global"} & set(packed)
    used = set(packed).union(*(upstream(plan, name) for name in packed))
    assert set(NAMES) - used == {name for name in NAMES if plan.stages[name].ablation}


def test_a_setting_changes_its_stage_and_those_that_build_on_it() -> None:
    plan = recipe()
    other = changed(plan, "identity", IdentityConfig(steps=7))
    differ = {name for name in NAMES if plan.fingerprint(name) != other.fingerprint(name)}
    assert differ == {"identity", *(name for name in NAMES if "identity" in upstream(plan, name))}
    assert {"e4e", "hypereditor"} <= differ and not {"clip", "base", "refined", "generator"} & differ
    assert plan.whole_fingerprint() != other.whole_fingerprint() and plan.whole_fingerprint() == recipe().whole_fingerprint()
    assert len({plan.fingerprint(name) for name in NAMES}) == len(NAMES)


def test_a_result_counts_only_for_its_own_settings(tmp_path: Path) -> None:
    plan = recipe()
    assert not plan.is_done("identity", tmp_path)
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / DONE).write_text(plan.fingerprint("identity"))
    assert plan.is_done("identity", tmp_path) and not plan.is_done("e4e", tmp_path)
    assert not changed(plan, "identity", IdentityConfig(rate=1.0)).is_done("identity", tmp_path)


def test_what_an_earlier_recipe_left_is_set_aside_and_what_this_one_left_stays(tmp_path: Path) -> None:
    plan, out = recipe(), tmp_path / "identity"
    set_aside(plan, "identity", tmp_path)
    (out / ".work").mkdir()
    (out / "checkpoints").mkdir()
    set_aside(plan, "identity", tmp_path)
    assert (out / "checkpoints").is_dir() and not (tmp_path / "replaced").exists()
    other = changed(plan, "identity", IdentityConfig(steps=7))
    set_aside(other, "identity", tmp_path)
    assert {path.name for path in out.iterdir()} == {".work", "begun"}
    (old,) = (tmp_path / "replaced").iterdir()
    assert old.name == f"identity-{plan.fingerprint('identity')[:8]}" and (old / "checkpoints").is_dir()
    (out / DONE).write_text(other.fingerprint("identity"))
    set_aside(plan, "identity", tmp_path)
    assert not plan.is_done("identity", tmp_path) and len(list((tmp_path / "replaced").iterdir())) == 2


def test_stages_can_be_left_out_unless_others_need_them() -> None:
    plan = recipe()
    fewer = plan.without(["hyperstyle", "psp", "restyle_psp"])
    assert set(plan.stages) - set(fewer.stages) == {"hyperstyle", "psp", "restyle_psp"}
    assert all(fewer.fingerprint(name) == plan.fingerprint(name) for name in fewer.stages)
    assert (plan.command, fewer.command) == ("make pack", "make pack PACK=\"--without '[hyperstyle,psp,restyle_psp]'\"")
    with pytest.raises(ValueError, match="restyle_psp needs psp"):
        plan.without(["psp"])
    with pytest.raises(ValueError, match="no stage 'pspp'.*psp"):
        plan.without(["pspp"])


def test_a_shortened_recipe_has_the_same_stages_with_less_to_do() -> None:
    plan, short = recipe(), recipe(0.01)
    assert tuple(short.stages) == NAMES and short.packed() == plan.packed()
    assert all(short.stages[name].needs == plan.stages[name].needs for name in NAMES)
    assert all(short.fingerprint(name) != plan.fingerprint(name) for name in NAMES)
    for wrong in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match="scale"):
            recipe(wrong)


def test_a_pack_without_an_editor_is_joined_from_the_stages_that_are_left(tmp_path: Path) -> None:
    plan = recipe().without(["hypereditor", "directional", "global", "hyperstyle"])
    join(plan, results(plan, tmp_path / "work"), tmp_path / "joined", seconds=1.0)
    pack = Pack.load(tmp_path / "joined")
    assert "e4e" in pack.info.networks and not {"hypereditor", "hyperstyle"} & set(pack.info.networks)


@lru_cache
def network_of(network: str) -> tuple[nn.Module, Mapping[str, object], Mapping[str, Tensor]]:
    """Return a network with its config and extra tensors: the committed pack's, or a small untrained one."""
    source = frozen()
    if network in source.info.networks:
        return source.network(network, nn.Module), source.info.networks[network].config, source.extra(network)
    objective = build_objective(network, SMALL[network], Setting(pack=source))
    return objective.net, objective.network_config(), objective.extra()


def results(plan: Recipe, work: Path) -> Path:
    """Write what stages leave, with the committed pack's networks, or untrained ones where it lacks them."""
    for number, name in enumerate(plan.stages):
        made, network = work / name / PACK, trained(plan, name)
        made.mkdir(parents=True)
        (work / name / RESULT).write_text(json.dumps({"seconds": float(number)}))
        if plan.stages[name].ablation:
            (work / name / STRENGTHS).write_text(json.dumps({"strength": 1.5}))
        if name in plan.packed():
            start_pack(made, **HEAD, provenance={})  # type: ignore[arg-type]
            net, config, extra = network_of(network)
            write_network(made, network, net, config=config, numbers={"reached": float(number)}, extra=extra)
    if "hypereditor" in plan.stages:
        details = work / "hypereditor" / PACK / HYPEREDITOR_DETAILS
        details.write_text(json.dumps({"smile": 1}))
        add_file(details.parent, HYPEREDITOR_DETAILS)
    return work


def test_results_are_joined_into_one_pack(tmp_path: Path) -> None:
    plan, folder = recipe(), tmp_path / "joined"
    work = results(plan, tmp_path / "work")
    for _ in range(2):  # again over the old one
        join(plan, work, folder, seconds=12.34, mlflow_run="abc")
    pack = Pack.load(folder)
    assert set(pack.info.networks) == {trained(plan, name) for name in plan.packed()}
    for name in plan.packed():
        network = trained(plan, name)
        assert pack.info.networks[network].numbers == {"reached": float(NAMES.index(name))}
        ours, theirs = pack.network(network, nn.Module).state_dict(), network_of(network)[0].state_dict()
        assert all(torch.allclose(value, theirs[key], rtol=1e-3, atol=1e-6) for key, value in ours.items())
    assert json.loads((folder / HYPEREDITOR_DETAILS).read_text()) == {"smile": 1}
    told: Mapping[str, object] = pack.info.provenance
    assert (told["seconds"], told["thread_seconds"], told["mlflow_run"]) == (12.3, float(sum(range(len(NAMES)))), "abc")
    assert told["ablation"] == {"directional": {"strength": 1.5}, "global": {"strength": 1.5}}
    assert {path.name for path in folder.iterdir()} == {"pack.yaml", *pack.info.hashes()}


def test_only_a_pack_or_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    plan, folder = recipe(), tmp_path / "joined"
    work = results(plan, tmp_path / "work")
    folder.mkdir()
    (folder / "diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match=r"holds diary.txt and no pack.yaml"):
        join(plan, work, folder, seconds=1.0)
    assert [path.name for path in folder.iterdir()] == ["diary.txt"]
    (folder / "diary.txt").unlink()
    join(plan, work, folder, seconds=1.0)
    assert Pack.load(folder).info.provenance["seconds"] == 1.0


def test_a_kill_leaves_the_old_pack_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, folder, rename = recipe(), tmp_path / "joined", Path.rename
    work = results(plan, tmp_path / "work")
    join(plan, work, folder, seconds=1.0)
    for before in (0, 1):  # killed before the first rename, and between both
        left = [before]

        def killed(path: Path, target: Path, left: list[int] = left) -> Path:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return rename(path, target)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Path, "rename", killed)
            join(plan, work, folder, seconds=2.0)
        found = sorted(Pack.load(path).info.provenance["seconds"] for path in tmp_path.glob("*joined*"))  # type: ignore[type-var]
        assert found == [1.0, 2.0] and folder.exists() == (before == 0)
        settle(folder)
        assert Pack.load(folder).info.provenance["seconds"] == 1.0
        assert {path.name for path in tmp_path.iterdir()} == {"work", "joined"}
