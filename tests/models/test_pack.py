"""A pack comes back as it was written, and a changed, incomplete or foreign one is refused with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
import yaml
from torch import nn

from models.instruction import Instruction
from models.pack import Pack, PackError, add_file, start_pack, write_network, write_numbers
from models.pack_format import CACHE_VARIABLE
from models.state import dense
from models.stylegan2 import Generator
from tests.models.small_pack import CONFIGS, inverted, write_small_pack

SMILE = Instruction(name="smile", source="face", target="smiling face")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "pack"))


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    raw = yaml.safe_load((folder / "pack.yaml").read_text())
    edit(raw)
    (folder / "pack.yaml").write_text(yaml.safe_dump(raw))


def test_the_same_seed_writes_the_same_bytes(original: Path, tmp_path: Path) -> None:
    again = write_small_pack(tmp_path / "again")
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in original.iterdir()}
    assert Pack.load(again).sha256 == Pack.load(original).sha256
    assert Pack.load(write_small_pack(tmp_path / "other", seed=1)).sha256 != Pack.load(original).sha256


def test_a_network_comes_back_equal_frozen_and_once(tmp_path: Path) -> None:
    torch.manual_seed(3)
    g = Generator.from_config(CONFIGS["generator"])
    start_pack(tmp_path, name="one", domain="portraits", size=64, licence="Apache-2.0", provenance={"seeds": [3], "steps": 10})
    write_network(tmp_path, "generator", g, config=CONFIGS["generator"], numbers={"fid": 3.5}, extra={"latent_avg": torch.ones(16)})
    pack = Pack.load(tmp_path)
    loaded = pack.generator()
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in g.state_dict().items())
    assert loaded is pack.generator() and not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert (pack.size, pack.domain, pack.info.provenance) == (64, "portraits", {"seeds": [3], "steps": 10})
    assert pack.info.networks["generator"].numbers == {"fid": 3.5}
    assert torch.equal(pack.mean_latent(), torch.ones(16))


def test_half_precision_files_are_half_as_big_and_load_as_float32(tmp_path: Path) -> None:
    g = Generator.from_config(CONFIGS["generator"])
    start_pack(tmp_path, name="half", domain="portraits", size=64, licence="Apache-2.0", provenance={})
    write_network(tmp_path, "generator", g, config=CONFIGS["generator"])
    full = (tmp_path / "generator.safetensors").stat().st_size
    write_network(tmp_path, "generator", g, config=CONFIGS["generator"], dtype=torch.float16)
    assert (tmp_path / "generator.safetensors").stat().st_size < 0.65 * full
    loaded = Pack.load(tmp_path).generator()
    assert loaded.conv1.conv.weight.dtype == torch.float32
    assert torch.allclose(loaded.conv1.conv.weight, g.conv1.conv.weight, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_inverters_add_the_mean_latent_and_editors_change_the_picture(original: Path) -> None:
    pack = Pack.load(original)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    for name in ("e4e", "w_encoder"):
        inverter = pack.inverter(name)
        state = inverter.invert(images)
        assert inverter.name == name and state.latents_BLD.shape == (2, 10, 16) and not state.offsets
        residual = pack.network(name, nn.Module)(images)
        assert torch.allclose(state.latents_BLD, residual + pack.mean_latent())
    reconstruction = pack.generator()(state)
    editor = pack.editor()
    edited = editor.edit(inverted(state, reconstruction), SMILE)
    assert set(edited.offsets) == {0, 2, 3, 5, 6, 8, 9, 11, 12}
    assert torch.equal(edited.latents_BLD, state.latents_BLD)
    assert not torch.equal(pack.generator()(edited), reconstruction)


@torch.no_grad()
def test_strength_scales_an_edit_and_an_edit_keeps_the_offsets_of_the_inversion(original: Path) -> None:
    pack = Pack.load(original)
    state = pack.inverter().invert(torch.rand(2, 3, 64, 64) * 2 - 1)
    reconstruction = pack.generator()(state)
    full, half, none = (
        pack.editor().edit(inverted(state, reconstruction), Instruction(name="s", source="face", target="smiling face", strength=s))
        for s in (1.0, 0.5, 0.0)
    )
    assert all(torch.allclose(dense(half.offsets[i]), dense(full.offsets[i]) * 0.5) for i in full.offsets)
    assert torch.allclose(pack.generator()(none), reconstruction, atol=1e-5)
    twice = pack.editor().edit(inverted(full, reconstruction), SMILE)
    assert all(torch.allclose(dense(twice.offsets[i]), (1 + dense(full.offsets[i])) ** 2 - 1, atol=1e-6) for i in full.offsets)


def test_an_encoder_without_any_mean_latent_is_refused(folder: Path) -> None:
    g = Generator.from_config(CONFIGS["generator"])
    write_network(folder, "generator", g, config=CONFIGS["generator"])
    with pytest.raises(PackError, match="neither 'e4e' nor 'generator' stores latent_avg"):
        Pack.load(folder).inverter()


def test_numbers_and_further_files_are_added(folder: Path) -> None:
    (folder / "card.md").write_text("trained on renders")
    add_file(folder, "card.md")
    write_numbers(folder, "identity", {"same_person": 0.95})
    pack = Pack.load(folder)
    assert pack.info.networks["identity"].numbers == {"threshold_far1": 0.5, "same_person": 0.95}
    (folder / "card.md").write_text("something else")
    with pytest.raises(PackError, match=r"card\.md was changed"):
        Pack.load(folder)


def test_one_changed_byte_is_found(folder: Path) -> None:
    path = folder / "e4e.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackError, match=r"e4e\.safetensors was changed: sha256 expected [0-9a-f]{64}, found [0-9a-f]{64}"):
        Pack.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "clip.safetensors").unlink()
    with pytest.raises(PackError, match=r"clip\.safetensors is missing"):
        Pack.load(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw.update(format=2), "format: expected 1, found 2"),
        (lambda raw: raw.pop("licence"), "field 'licence' is missing"),
        (lambda raw: raw.update(size="64"), "size: expected a number of pixels, found '64'"),
        (lambda raw: raw.update(networks=[1]), "networks: expected a mapping"),
        (lambda raw: raw["networks"]["e4e"].update(kind="e4f"), "networks.e4e: unknown kind 'e4f'; did you mean 'e4e'"),
        (lambda raw: raw["networks"]["e4e"].pop("sha256"), "networks.e4e: field 'sha256' is missing"),
        (lambda raw: raw["networks"]["e4e"].update(numbers={"ssim": "good"}), "numbers.ssim: expected a number, found 'good'"),
        (lambda raw: raw["networks"]["e4e"].update(file="../e4e.safetensors"), "must be a relative path inside the pack"),
        (lambda raw: raw["files"].update({"/etc/hosts": "0"}), "'/etc/hosts' must be a relative path"),
    ],
)
def test_a_wrong_index_is_named(folder: Path, edit: Callable[[dict], object], message: str) -> None:
    change(folder, edit)
    with pytest.raises(PackError, match=message):
        Pack.load(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw["networks"]["generator"]["config"].update(style_dim=32), "does not fit its config: .*size mismatch"),
        (lambda raw: raw["networks"]["generator"]["config"].update(sized=32), "config does not fit Generator: .*'sized'"),
        (lambda raw: raw["networks"].pop("generator"), "no network 'generator'; it has e4e, w_encoder"),
        (lambda raw: raw["networks"].update(generator=raw["networks"]["e4e"]), "is a Encoder4Editing, expected a Generator"),
        (lambda raw: raw["networks"]["generator"].update(extra=["mean"]), "lacks the tensor 'mean'"),
    ],
)
def test_a_network_that_does_not_fit_is_named(folder: Path, edit: Callable[[dict], object], message: str) -> None:
    raw_order = yaml.safe_load((folder / "pack.yaml").read_text())
    edit(raw_order)
    (folder / "pack.yaml").write_text(yaml.safe_dump(raw_order, sort_keys=False))
    with pytest.raises(PackError, match=message):
        Pack.load(folder).generator()


def test_asking_for_the_wrong_role_is_named(original: Path) -> None:
    with pytest.raises(PackError, match="'clip' is a clip, not an inverter"):
        Pack.load(original).inverter("clip")
    with pytest.raises(PackError, match="'e4e' is a e4e, not an editor; it has hypereditor"):
        Pack.load(original).editor("e4e")


def test_not_a_pack(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="no such folder"):
        Pack.load(tmp_path / "nowhere")
    with pytest.raises(PackError, match="pack.yaml is missing, so this is not a pack"):
        Pack.load(tmp_path)


def test_a_config_that_cannot_rebuild_the_network_is_never_written(tmp_path: Path) -> None:
    start_pack(tmp_path, name="wrong", domain="portraits", size=64, licence="Apache-2.0", provenance={})
    g = Generator.from_config(CONFIGS["generator"])
    with pytest.raises(PackError, match="does not fit its config"):
        write_network(tmp_path, "generator", g, config={**CONFIGS["generator"], "n_mlp": 3})
    with pytest.raises(PackError, match="is not a kind of network that a pack holds"):
        write_network(tmp_path, "generator", nn.Linear(1, 1), config={})
    with pytest.raises(PackError, match="extra tensor 'input.input' has the name"):
        write_network(tmp_path, "generator", g, config=CONFIGS["generator"], extra={"input.input": torch.ones(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["pack.yaml"]


def test_a_pack_behind_a_url_is_copied_once_and_repaired(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.put(str(original), "/packs/small", recursive=True)
    try:
        pack = Pack.load("memory://packs/small")
        assert pack.sha256 == Pack.load(original).sha256 and pack.path.is_relative_to(tmp_path / "cache")
        memory.rm("/packs/small/clip.safetensors")
        assert Pack.load("memory://packs/small").path == pack.path
        (pack.path / "clip.safetensors").write_bytes(b"broken")
        with pytest.raises(PackError, match="memory://packs/small: .*clip.safetensors not found"):
            Pack.load("memory://packs/small")
    finally:
        memory.rm("/packs", recursive=True)
    with pytest.raises(PackError, match="not found"):
        Pack.load("memory://packs/small")
