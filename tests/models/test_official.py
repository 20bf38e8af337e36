"""Checkpoints of the papers' authors are read at any size, from their weights alone, and files that want more are refused."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.clipinverter import CLIPAdapter, CLIPRemapper
from models.discriminator import Discriminator
from models.hypereditor import HyperEditor
from models.hyperstyle import HyperStyle
from models.mappers import LevelsMapper, SingleMapper, StyleSpaceMapper
from models.official import MEAN_LATENT, OfficialNetwork, networks_in, options_of, read_checkpoint
from models.official_perception import ArcFace, MoCo
from models.official_shapes import CheckpointFileError
from models.restyle import ReStyleEncoder, ReStyleResNetEncoder
from models.stylegan2 import Generator
from tests.models import official_files as made

PICTURES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
OTHERS = PICTURES.flip(0)


def found_in(checkpoint: made.Checkpoint, *, kind: str | None = None) -> dict[str, OfficialNetwork]:
    return {network.name: network for network in networks_in(checkpoint, kind=kind)}


@pytest.mark.parametrize(("size", "n_mlp"), [(64, 8), (128, 2), (512, 3)])
@torch.no_grad()
def test_generators_and_discriminators_of_any_size(size: int, n_mlp: int) -> None:
    g, d = made.generator(size, n_mlp=n_mlp), made.drawn(Discriminator(size, channels=made.channels(size)), 9)
    found = found_in(made.rosinality_file(g, made.mean(), discriminator=d))
    assert made.same(found["generator"], g) and made.same(found["discriminator"], d)
    assert torch.equal(found["generator"].extra[MEAN_LATENT], made.mean())
    read = found["generator"].module
    assert isinstance(read, Generator)
    latents = read.repeat(read.mapping(torch.ones(1, made.D)))
    assert torch.equal(read.synthesis(latents), g.synthesis(latents))


@pytest.mark.parametrize("size", [64, 128, 512])
@pytest.mark.parametrize(("build", "encoder_type", "name"), [
    (made.e4e, "Encoder4Editing", "e4e"), (made.psp, "GradualStyleEncoder", "psp"),
])  # fmt: skip
@torch.no_grad()
def test_encoders(size: int, build: Callable[[int], nn.Module], encoder_type: str, name: str) -> None:
    encoder, g = build(size), made.generator(size)
    found = found_in(made.encoder_file(encoder, g, encoder_type=encoder_type, latent_avg=made.mean()))
    assert made.same(found[name], encoder) and made.same(found["generator"], g)
    assert torch.equal(found[name].module(PICTURES), encoder(PICTURES))
    assert torch.equal(found[name].extra[MEAN_LATENT], made.mean()), "equal rows are one row"


@torch.no_grad()
def test_encoders_into_w_have_the_size_that_the_options_name() -> None:
    encoder, g = made.w_encoder(128), made.generator(128)
    found = found_in(made.encoder_file(encoder, g, encoder_type="SingleStyleCodeEncoder"))["w_encoder"]
    assert made.same(found, encoder)
    picture = torch.rand(1, 3, 256, 256)
    assert torch.equal(found.module(picture), encoder(picture)) and found.module(picture).shape == (1, 12, made.D)
    alone = {"state_dict": made.state(encoder=encoder), "opts": SimpleNamespace(output_size=np.int64(128))}
    assert made.same(found_in(alone)["w_encoder"], encoder)


@pytest.mark.parametrize(("kind", "encoder_type", "name", "shape", "size"), [
    (ReStyleEncoder, "ProgressiveBackboneEncoder", "restyle_e4e", {**made.IRSE, "shared": True}, 128),
    (ReStyleEncoder, "BackboneEncoder", "restyle_psp", {**made.IRSE, "shared": False}, 64),
    (ReStyleResNetEncoder, "ResNetProgressiveBackboneEncoder", "restyle_e4e", {**made.RESNET, "shared": True}, 512),
    (ReStyleResNetEncoder, "ResNetBackboneEncoder", "restyle_psp", {**made.RESNET, "shared": False}, 64),
])  # fmt: skip
@torch.no_grad()
def test_restyle(kind: type, encoder_type: str, name: str, shape: dict, size: int) -> None:
    encoder = made.drawn(kind(size, input_size=64, style_dim=made.D, style_width=6, **shape), 6)
    checkpoint = made.encoder_file(encoder, made.generator(size), encoder_type=encoder_type, latent_avg=made.mean())
    found = found_in(checkpoint)[name]
    assert made.same(found, encoder) and torch.equal(found.module(PICTURES, OTHERS), encoder(PICTURES, OTHERS))


@pytest.mark.parametrize(("size", "more"), [
    (64, {}),
    (128, {"layers": [2, 4, 5, 9, 13, 14]}),
    (512, {"layers": [0, 3, 14, 20, 21]}),
    (64, {"block": "separable"}),
    (64, {"shared": False, "layers": [0, 1, 2, 8]}),
    (64, {"kernel_size": 1, "layers": [0, 2, 3, 8]}),
])  # fmt: skip
@torch.no_grad()
def test_hyperstyle_with_its_aliases(size: int, more: dict[str, object]) -> None:
    network, g = made.hyperstyle(size, **more), made.generator(size)
    found = found_in(made.hyperstyle_file(network, g, made.mean()))["hyperstyle"]
    assert made.same(found, network)
    ours, theirs = found.module(PICTURES, OTHERS), network(PICTURES, OTHERS)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[index], theirs[index]) for index in ours)


@pytest.mark.parametrize(("size", "more"), [(64, {}), (128, {"layers": [0, 5, 14]}), (512, {"layers": [3, 20], "kernel_size": 3})])
@torch.no_grad()
def test_hypereditor_beside_two_copies_of_clip(size: int, more: dict) -> None:
    shape = {"channels": made.channels(size), "input_size": 64, "text_dim": made.TEXT, "inner": 7, **made.RESNET}
    network = made.drawn(HyperEditor(size, **shape, **more), 7)
    found = found_in(made.hypereditor_file(network, made.generator(size), made.mean()))
    assert set(found) == {"generator", "hypereditor"} and made.same(found["hypereditor"], network)
    text = torch.randn(2, made.TEXT)
    ours, theirs = found["hypereditor"].module(PICTURES, text), network(PICTURES, text)
    assert all(torch.equal(ours[index], theirs[index]) for index in theirs)


@pytest.mark.parametrize("place", ["", "model_clip."])
@torch.no_grad()
def test_clip_in_a_file_of_its_own_and_in_hypereditors(place: str) -> None:
    from models.clip import ClipModel

    sizes = {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 32, "head_width": 64},
    }
    config = {**sizes, "text_cfg": {"context_length": 77, "width": 64, "heads": 1, "layers": 1}}
    clip = made.drawn(ClipModel(model=config, templates=("{}",)), 12)
    tensors = {f"{place}{key.removeprefix('clip.')}": value for key, value in clip.state_dict().items()}
    notes = {f"{place}context_length": torch.tensor(77)}
    found = found_in({"state_dict": tensors | notes} if place else tensors | notes)["clip"].module
    assert isinstance(found, ClipModel) and len(found.templates) == 80 and found.templates[-1] == "a tattoo of the {}."
    image = torch.rand(2, 3, 128, 128)
    tokens = clip.tokenize(["a face", "an old face"])
    assert torch.equal(found.embed_images(image), clip.embed_images(image)) and torch.equal(
        found.embed_tokens(tokens), clip.embed_tokens(tokens)
    )


def test_a_clip_with_another_tower_is_refused() -> None:
    with pytest.raises(CheckpointFileError, match="its CLIP is not of the released layout: expected a CLIP whose picture tower is a ViT"):
        found_in({"visual.conv1.weight": torch.zeros(8, 3, 3, 3), "positional_embedding": torch.zeros(77, 64)})


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "clip.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "clip.safetensors")["a"], torch.ones(2))  # type: ignore[arg-type]
    (tmp_path / "bad.safetensors").write_bytes(b"not one")
    with pytest.raises(CheckpointFileError, match="bad.safetensors"):
        read_checkpoint(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("levels", [("fine", "medium", "coarse"), ("coarse", "fine")])
def test_clipinverter(levels: tuple[str, ...]) -> None:
    adapter = made.drawn(CLIPAdapter(widths=(32, 64, 96), text_dim=made.TEXT, levels=levels), 8)
    remapper = made.drawn(CLIPRemapper(128, channels=made.channels(128), style_dim=made.D, text_dim=made.TEXT), 9)
    found = found_in(made.clipinverter_file(adapter, remapper, made.generator(128)))
    assert found["clip_remapper"].module.state_dict().keys() == remapper.state_dict().keys()
    assert made.same(found["clip_adapter"], adapter) and made.same(found["clip_remapper"], remapper)
    assert made.same(found["generator"], made.generator(128)), "the remapper's weights are none of the generator's"


def style_mapper(size: int) -> StyleSpaceMapper:
    layers = made.generator(size).layers
    return StyleSpaceMapper(widths=[layer.in_channels for layer in layers], rgb=[layer.index for layer in layers if layer.kind == "rgb"])


@pytest.mark.parametrize("mapper", [
    LevelsMapper(style_dim=made.D), LevelsMapper(style_dim=made.D, levels=("course", "fine")), SingleMapper(style_dim=made.D),
    style_mapper(128), style_mapper(512),
])  # fmt: skip
def test_styleclip_mappers(mapper: nn.Module) -> None:
    size = 512 if len(list(mapper.children())) > 14 else 128
    found = found_in(made.mapper_file(made.drawn(mapper, 10), made.generator(size)))
    assert made.same(found["styleclip_mapper"], mapper)


@torch.no_grad()
def test_the_networks_of_the_losses() -> None:
    arcface = made.drawn(ArcFace(embed_dim=9, **made.IRSE), 11)
    found = found_in(arcface.state_dict())["arcface"]
    assert made.same(found, arcface) and torch.equal(found.module(PICTURES), arcface(PICTURES))
    moco = MoCo().eval()
    assert made.same(found_in(made.moco_file(moco))["moco"], moco)


@torch.no_grad()
def test_cars_look_at_pictures_that_are_not_square_and_drop_slots_that_their_generator_lacks() -> None:
    """The released e4e of cars has 18 slots beside a generator of 16; here 12 beside 10."""
    encoder, g = made.drawn(made.Encoder4Editing(128, input_size=256, style_dim=made.D, style_width=8, **made.IRSE), 1), made.generator(64)
    rows = torch.randn(12, made.D)
    checkpoint = made.encoder_file(encoder, g, encoder_type="Encoder4Editing", dataset_type="cars_encode") | {"latent_avg": rows}
    found = found_in(checkpoint)["e4e"]
    encoder.input_size = (192, 256)
    pictures = torch.rand(1, 3, 192, 256)
    assert torch.equal(found.module(pictures), encoder(pictures)[:, :10]) and torch.equal(found.extra[MEAN_LATENT], rows[:10])


def test_an_encoder_that_does_not_start_from_the_mean_adds_nothing() -> None:
    checkpoint = made.encoder_file(made.psp(), made.generator(), encoder_type="GradualStyleEncoder", start_from_latent_avg=False)
    assert torch.equal(found_in(checkpoint)["psp"].extra[MEAN_LATENT], torch.zeros(made.D))
    checkpoint = made.encoder_file(made.psp(), made.generator(), encoder_type="GradualStyleEncoder", start_from_latent_avg=True)
    assert not found_in(checkpoint)["psp"].extra


def test_the_caller_says_what_the_file_does_not() -> None:
    checkpoint = made.encoder_file(made.e4e(), made.generator(), encoder_type=None)
    with pytest.raises(CheckpointFileError, match="its encoder fits e4e, psp by its keys, and opts.encoder_type None is none of these"):
        networks_in(checkpoint, where="checkpoint a.pt")
    assert set(found_in(checkpoint, kind="psp")) == {"generator", "psp"}
    with pytest.raises(CheckpointFileError, match="fits e4e, psp by its keys, and --kind restyle_psp is none of these"):
        networks_in(checkpoint, kind="restyle_psp")


def changed(checkpoint: made.Checkpoint, edit: Callable[[dict], object], part: str = "state_dict") -> made.Checkpoint:
    inner = checkpoint[part]
    assert isinstance(inner, dict)
    edit(inner)
    return checkpoint


def hyperstyle_checkpoint() -> made.Checkpoint:
    return made.hyperstyle_file(made.hyperstyle(), made.generator(), made.mean())


@pytest.mark.parametrize(("checkpoint", "message"), [
    ({"weights": torch.ones(1), 3: 4}, "holds no network that is known here; its keys begin with 3, weights"),
    ({"g_ema": 3, "state_dict": [1]}, "holds no network that is known here"),
    (changed(made.rosinality_file(made.generator()), lambda w: w.pop("conv1.conv.weight"), "g_ema"),
     "its generator lacks the tensor 'conv1.conv.weight': cut, or of another layout"),
    (changed(made.rosinality_file(made.generator()), lambda w: w.pop("style.1.bias"), "g_ema"),
     "its generator does not fit the layout: .*Missing key.*style.1.bias"),
    (changed(made.rosinality_file(made.generator()), lambda w: w.update(more=torch.ones(1)), "g_ema"), "Unexpected key.*more"),
    (changed(made.rosinality_file(made.generator()), lambda w: w.update({"style.1.bias": "no tensor"}), "g_ema"), "Missing key"),
    (changed(made.rosinality_file(made.generator()), lambda w: w.update({"style.1.bias": torch.ones(5)}), "g_ema"), "size mismatch"),
    (changed(hyperstyle_checkpoint(), lambda w: w.update({"hypernet.refinement_blocks.2.hypernet.w1": torch.ones(1)})),
     "refinement_blocks.2.hypernet.w1 differs from shared_weight_hypernet, of which it should be a copy"),
    ({"state_dict": made.state(hypernet=made.hyperstyle()), "opts": {}}, r"neither a generator \(decoder.\*\) nor opts.output_size says"),
    ({"state_dict": made.state(hypernet=made.hyperstyle(128)), "opts": {"output_size": 64}}, "its hyperstyle does not fit the layout"),
])  # fmt: skip
def test_what_does_not_fit_is_named(checkpoint: made.Checkpoint, message: str) -> None:
    with pytest.raises(CheckpointFileError, match=f"checkpoint a.pt: .*{message}"):
        networks_in(checkpoint, where="checkpoint a.pt")


class Hostile:
    """What a pickle may hold: reading it plainly runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    marker, file = tmp_path / "ran", tmp_path / "hostile.pt"
    weights = {**made.rosinality_file(made.generator()), "opts": {"device": Hostile(marker)}}
    torch.save(weights, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointFileError, match=r"hostile.pt: refused, because it wants to run code .*: (posix|nt).system. Only"
    ) as error:
        read_checkpoint(file)
    assert not marker.exists() and "weights_only" not in str(error.value), "torch's advice to read it unsafely is kept from the user"
    torch.load(file, weights_only=False)
    assert marker.exists(), "the file is hostile indeed"


def test_a_bare_pickle_and_a_whole_module_do_not_run_either(tmp_path: Path) -> None:
    bare, module = tmp_path / "bare.pt", tmp_path / "module.pt"
    bare.write_bytes(pickle.dumps({"g_ema": Hostile(tmp_path / "ran")}, protocol=2))
    torch.save({"g_ema": nn.Linear(2, 2)}, module)
    with pytest.raises(CheckpointFileError, match="bare.pt: "):
        read_checkpoint(bare)
    with pytest.raises(CheckpointFileError, match="refused, because .*torch.nn.modules.linear.Linear"):
        read_checkpoint(module)
    assert not (tmp_path / "ran").exists()


OPTIONS = {
    "exp_dir": pathlib.PosixPath("runs/e4e"), "nested": argparse.Namespace(seed=3), "lr": np.float64(0.5), "loss": np.float32(0.25),
    "step": np.int64(7), "flag": np.bool_(True), "half": np.float16(0.5), "count": np.int32(4), "device": torch.device("cuda:0"),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("as_namespace", [True, False])
def test_options_of_the_authors_kinds_are_read(tmp_path: Path, zipped: bool, as_namespace: bool) -> None:
    opts = argparse.Namespace(**OPTIONS) if as_namespace else OPTIONS
    torch.save({"opts": opts, "latent_avg": torch.arange(3.0)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(tmp_path / "a.pt")
    nested = SimpleNamespace(seed=3)  # what stands for the command line's own kind
    assert (
        options_of(read) == OPTIONS | {"nested": nested}
        and isinstance(read["latent_avg"], Tensor)
        and read["latent_avg"].tolist() == [0.0, 1.0, 2.0]
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_old_torch_and_half_precision(tmp_path: Path, zipped: bool) -> None:
    g = made.generator()
    halves = {key: value.half() if value.is_floating_point() else value for key, value in g.state_dict().items()}
    for name, weights in (("full.pt", g.state_dict()), ("half.pt", halves)):
        torch.save({"g_ema": weights, "latent_avg": made.mean().half()}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert made.same(found_in(read_checkpoint(tmp_path / "full.pt"))["generator"], g)
    half = found_in(read_checkpoint(tmp_path / "half.pt"))["generator"]
    assert {value.dtype for value in half.module.state_dict().values()} == {torch.float32}
    assert half.extra[MEAN_LATENT].dtype == torch.float32
    assert torch.equal(half.module.state_dict()["conv1.conv.weight"], g.conv1.conv.weight.half().float())


@pytest.mark.parametrize(("name", "content", "message"), [
    ("text.pt", b"hello, this is a text\n", r"not a file that torch.save wrote, or cut short \(22 bytes\)"),
    ("page.pt", b"<!DOCTYPE html><html>quota exceeded</html>", "not a file that torch.save wrote"),
    ("empty.pt", b"", r"not a file that torch.save wrote, or cut short \(0 bytes\)"),
])  # fmt: skip
def test_what_is_no_checkpoint_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointFileError, match=f"{name}: {message}"):
        read_checkpoint(tmp_path / name)


def test_no_file_a_folder_and_a_list_are_named(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    for path, message in (
        (tmp_path / "none.pt", "found no such file"),
        (tmp_path, "found a folder"),
        (tmp_path / "list.pt", "found a list"),
    ):
        with pytest.raises(CheckpointFileError, match=message):
            read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_damage_leads_anywhere_else(tmp_path: Path, zipped: bool) -> None:
    """Law: whatever is cut off or overwritten, a file is read or refused as a checkpoint."""
    file, rng, refused = tmp_path / "a.pt", random.Random(5), 0
    torch.save({"state_dict": {"a": torch.ones(3)}, "opts": argparse.Namespace(**OPTIONS)}, file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    for attempt in range(60):
        data = bytearray(whole[: rng.randrange(len(whole))] if attempt % 2 else whole)
        for _ in range(min(3 * (attempt % 4), len(data))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(bytes(data))
        try:
            read_checkpoint(file)
        except CheckpointFileError:
            refused += 1
    assert refused > 30


def test_a_cut_zip_is_named(tmp_path: Path) -> None:
    torch.save(hyperstyle_checkpoint(), tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    for part in (0.3, 0.9, 0.999):
        (tmp_path / "cut.pt").write_bytes(data[: int(len(data) * part)])
        with pytest.raises(CheckpointFileError, match=r"cut.pt: not a file that torch.save wrote, or cut short \(\d+ bytes\)"):
            read_checkpoint(tmp_path / "cut.pt")


def test_a_network_read_is_for_inference(tmp_path: Path) -> None:
    torch.save(hyperstyle_checkpoint(), tmp_path / "a.pt")
    network = found_in(read_checkpoint(tmp_path / "a.pt"))["hyperstyle"].module
    assert isinstance(network, HyperStyle) and not network.training and not any(p.requires_grad for p in network.parameters())
