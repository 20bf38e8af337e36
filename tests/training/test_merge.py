"""Networks trained by themselves are put into a pack: all others keep their bytes, foundations must fit, a fault changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.pack import Pack, dump_info, read_info, start_pack, write_network
from models.pack_format import INDEX, PackError
from pipeline.lock import OutputError
from training.merge import merge

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "packs" / "portraits64"


def trained(folder: Path, name: str, *, drop: str | None = None) -> Path:
    """Return a pack as a training of `name` on the committed one leaves it: the others' files untouched, its own in float32 and moved."""
    shutil.copytree(COMMITTED, folder)
    base = Pack.load(COMMITTED)
    info, module = base.info.networks[name], Pack.load(COMMITTED).network(name, torch.nn.Module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.25)
    head = {"name": "x", "domain": base.domain, "size": base.size, "licence": "x", "provenance": {"trained": {name: {"steps": 7}}}}
    start_pack(folder, **head, keep=set(base.info.networks) - {name, drop})  # type: ignore[arg-type]
    write_network(folder, name, module, config=info.config, numbers={"identity": 0.5}, extra=base.extra(name))
    return folder


def trained_on(pack: Path, name: str, folder: Path) -> Path:
    """Return a pack with a network that was trained on another pack's, with that pack's foundations."""
    trained(folder, name)
    index, below = read_info(folder)[0], read_info(pack)[0].networks["w_encoder"]
    shutil.copy(pack / below.file, folder / below.file)
    (folder / INDEX).write_bytes(dump_info(replace(index, networks={**index.networks, "w_encoder": below})))
    return folder


def test_taken_networks_come_in_half_precision_and_all_others_stay_as_they_are(tmp_path: Path) -> None:
    taken = {name: trained(tmp_path / name, name) for name in ("psp", "restyle_psp")}
    sha256, left_out = merge(COMMITTED, taken, tmp_path / "new")
    new, old = Pack.load(tmp_path / "new"), Pack.load(COMMITTED)
    assert new.sha256 == sha256 and list(left_out) == []
    assert set(new.info.networks) == set(old.info.networks) and new.info.files == old.info.files
    for name, entry in new.info.networks.items():
        assert (entry.sha256 == old.info.networks[name].sha256) is (name not in taken), name
    for name, path in taken.items():
        wanted, found = (pack.network(name, torch.nn.Module).state_dict() for pack in (Pack.load(path), new))
        assert all(torch.allclose(found[key], value, rtol=1e-3, atol=1e-6) for key, value in wanted.items())
        assert (tmp_path / "new" / f"{name}.safetensors").stat().st_size < 0.6 * (path / f"{name}.safetensors").stat().st_size
        assert new.info.networks[name].numbers == {"identity": 0.5}
        assert new.info.provenance["trained"][name] == {"steps": 7, "taken_from": Pack.load(path).sha256}  # type: ignore[index]
    assert new.info.provenance["trained"]["hyperstyle"] == old.info.provenance["trained"]["hyperstyle"]  # type: ignore[index]
    assert new.info.name == old.info.name and new.info.licence == old.info.licence


def test_a_pack_can_be_given_a_network_in_its_own_place(tmp_path: Path) -> None:
    shutil.copytree(COMMITTED, tmp_path / "mine")
    sha256, _ = merge(tmp_path / "mine", {"psp": trained(tmp_path / "psp", "psp")}, tmp_path / "mine")
    assert Pack.load(tmp_path / "mine").sha256 == sha256 != Pack.load(COMMITTED).sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "psp"]


def test_a_foundation_keeps_its_bytes_so_that_what_stands_on_it_can_be_merged_again(tmp_path: Path) -> None:
    other = trained(tmp_path / "w_encoder", "w_encoder")
    both = trained_on(other, "hyperstyle", tmp_path / "hyperstyle")
    taken = {"w_encoder": both, "hyperstyle": both}
    merge(COMMITTED, taken, tmp_path / "new")
    assert Pack.load(tmp_path / "new").info.networks["w_encoder"].sha256 == Pack.load(other).info.networks["w_encoder"].sha256
    merge(tmp_path / "new", {"hyperstyle": both}, tmp_path / "again")


def test_a_kill_between_the_two_renames_is_mended_and_a_fault_leaves_nothing_behind(tmp_path: Path) -> None:
    shutil.copytree(COMMITTED, tmp_path / ".mine.replaced")
    merge(tmp_path / "mine", {"psp": trained(tmp_path / "psp", "psp")}, tmp_path / "mine")
    broken = trained(tmp_path / "broken", "psp")
    info = read_info(broken)[0]
    lying = replace(info.networks["psp"], config={**info.networks["psp"].config, "style_dim": 7})
    (broken / INDEX).write_bytes(dump_info(replace(info, networks={**info.networks, "psp": lying})))
    with pytest.raises(PackError, match=r"psp.safetensors does not fit its config"):
        merge(COMMITTED, {"psp": broken}, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "mine", "psp"]


def test_figures_of_a_replaced_network_are_left_out(tmp_path: Path) -> None:
    _, left_out = merge(COMMITTED, {"landmarks": trained(tmp_path / "landmarks", "landmarks")}, tmp_path / "new")
    assert left_out == list(Pack.load(COMMITTED).info.files) and left_out
    assert not any((tmp_path / "new" / name).exists() for name in left_out)
    assert Pack.load(tmp_path / "new").info.files == {}


def test_a_network_on_other_foundations_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    other = trained(tmp_path / "w_encoder", "w_encoder")
    with pytest.raises(
        PackError, match=r"hyperstyle of .*portraits64 was trained on another w_encoder than that of .*w_encoder: take both"
    ):
        merge(COMMITTED, {"w_encoder": other}, tmp_path / "new")
    strange = trained(tmp_path / "psp", "psp")
    info = read_info(strange)[0]
    foreign = replace(info.networks["generator"], sha256=info.networks["e4e"].sha256, file="e4e.safetensors")
    (strange / INDEX).write_bytes(dump_info(replace(info, networks={**info.networks, "generator": foreign})))
    with pytest.raises(PackError, match="psp of .* was trained on another generator than that of .*portraits64"):
        merge(COMMITTED, {"psp": strange}, tmp_path / "new")
    with pytest.raises(PackError, match=r"--take.psp .*: has no network 'psp'; it has"):
        merge(COMMITTED, {"psp": trained(tmp_path / "lacking", "e4e", drop="psp")}, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds letter.txt and no pack.yaml"):
        merge(COMMITTED, {"psp": trained(tmp_path / "again", "psp")}, tmp_path / "full")


def test_the_command_says_what_it_made_and_what_was_wrong(tmp_path: Path) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "jobs/merge_packs.py", "--base", str(COMMITTED), "--output", str(tmp_path / "new"), *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("--take", f"{{psp: {trained(tmp_path / 'psp', 'psp')}}}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["sha256"] == Pack.load(tmp_path / "new").sha256
    empty, absent = run("--take", "{}"), run("--take", "{psp: nowhere}")
    assert (empty.returncode, absent.returncode) == (2, 2)
    assert "expected one network or more" in empty.stderr and "merge_packs: pack nowhere: no such folder" in absent.stderr


def test_between_two_packs_lies_the_average_of_a_network(tmp_path: Path) -> None:
    first, second = COMMITTED, trained(tmp_path / "later", "psp")
    assert (
        Pack.load(second).network("psp", torch.nn.Module).state_dict().keys()
        == Pack.load(first).network("psp", torch.nn.Module).state_dict().keys()
    )

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        flags = ["--network", "psp", "--first", str(first), "--second", str(second), "--output", str(tmp_path / "new"), *more]
        return subprocess.run([sys.executable, "jobs/average_packs.py", *flags], cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("--share", "0.25")
    assert done.returncode == 0, done.stderr
    a, b, made = (Pack.load(path).network("psp", torch.nn.Module).state_dict() for path in (first, second, tmp_path / "new"))
    assert any(not torch.equal(a[key], b[key]) for key in a)
    for key, value in made.items():
        assert torch.allclose(value.float(), 0.75 * a[key].float() + 0.25 * b[key].float(), atol=2e-3, rtol=2e-3)
    assert Pack.load(tmp_path / "new").info.networks["psp"].numbers == {}
    for wrong, words in (("1.5", "--share 1.5: expected a number from 0 to 1"), ("-1", "--share -1: expected")):
        ended = run("--share", wrong)
        assert ended.returncode == 2 and words in ended.stderr
