"""Every training loop runs, learns something measurable in a few steps, and gives the same network for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.clip import ClipModel
from models.instruction import Instruction
from models.perception import AttributeNet, IdentityNet
from models.stylegan2 import Generator
from portraits import Parameters, sample_parameters
from training import attributes, clip, encoders, generator, hypereditor, identity, landmarks
from training.attributes import truth
from training.data import seeded
from training.pack import fingerprint, is_done, stages

CHANNELS = {4: 16, 8: 16, 16: 16, 32: 16, 64: 8}


def losses(path: Path, key: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def small_generator() -> Generator:
    torch.manual_seed(0)
    return Generator(64, 80, 2, channels=CHANNELS).eval().requires_grad_(False)


def test_generator_learns_and_repeats(tmp_path: Path) -> None:
    config = generator.GeneratorConfig(style_dim=80, n_mlp=2, channels=CHANNELS, steps=25, batch=4, measured=20)
    first, numbers = generator.train(config, tmp_path / "a")
    again, _ = generator.train(config, tmp_path / "b")
    recorded = losses(tmp_path / "a" / "generator.jsonl")
    assert recorded[-1] < recorded[0]
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert numbers["psnr_db"] > 0
    refine = generator.RefineConfig(steps=6, batch=4, mapping_steps=60, measured=20)
    seen = ClipModel(model=clip.MODEL, merges=200).eval().requires_grad_(False)
    _, refined = generator.refine(refine, tmp_path / "c", net=first, clip=seen)
    assert refined["mapping_error"] < numbers["mapping_error"]


def test_attributes_learn(tmp_path: Path) -> None:
    config = attributes.AttributesConfig(widths=(8, 16, 16, 16), pictures=128, steps=25, batch=32, measured=80)
    net, numbers = attributes.train(config, tmp_path)
    recorded = losses(tmp_path / "attributes.jsonl")
    assert recorded[-1] < recorded[0]
    assert 0 < numbers["accuracy_worst"] <= numbers["accuracy"] <= 1
    assert net.probabilities(torch.zeros(2, 3, 64, 64)).shape == (2, len(net.names))


def test_truth_of_groups_is_exclusive() -> None:
    p = Parameters(values=sample_parameters(200, seeded(1)).values, style=torch.arange(200) % 7)
    table, start = truth(p), 0
    for members in attributes.GROUPS.values():
        assert (table[:, start : start + len(members)].sum(1) == 1).all()
        start += len(members)


def test_identity_learns(tmp_path: Path) -> None:
    config = identity.IdentityConfig(
        widths=(8, 16, 16, 16), embed_dim=16, people=12, pictures=6, steps=25, batch=24, margin=0.0, measured=20
    )
    _, numbers = identity.train(config, tmp_path)
    recorded = losses(tmp_path / "identity.jsonl")
    assert recorded[-1] < recorded[0]
    assert -1 <= numbers["threshold_far1"] <= 1


def test_landmarks_learn(tmp_path: Path) -> None:
    config = landmarks.LandmarksConfig(size=64, widths=(8, 8, 8, 8), pictures=64, empty=16, steps=20, batch=16, measured=20)
    _, numbers = landmarks.train(config, tmp_path)
    recorded = losses(tmp_path / "landmarks.jsonl")
    assert recorded[-1] < recorded[0]
    assert numbers["error_mean"] > 0


def test_clip_learns(tmp_path: Path) -> None:
    config = clip.ClipConfig(merges=200, pairs=64, steps=10, pairwise_steps=6, batch=16, measured=60)
    model, numbers = clip.train(config, tmp_path)
    assert numbers["zero_shot_style"] >= 0
    assert torch.isfinite(model.embed_texts(["a face with a smile"])).all()
    with pytest.raises(ValueError, match="fewer words"):
        model.embed_texts(["a face " * 40])


@pytest.mark.parametrize("kind", ["e4e", "w"])
def test_encoders_learn(tmp_path: Path, kind: str) -> None:
    source = small_generator()
    config = encoders.EncoderConfig(
        kind=kind, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), style_width=8, pictures=64, steps=120, batch=6, picture_every=10
    )  # type: ignore[arg-type]
    net, _ = encoders.train(
        config, tmp_path, generator=source, mean_latent=torch.zeros(80), identity=IdentityNet(widths=(8, 8, 8, 8)).eval()
    )
    recorded = losses(tmp_path / f"{kind}.jsonl", "code")
    assert recorded[-1] < recorded[0]
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 10, 80)


@pytest.mark.parametrize("loss", ["directional", "global"])
def test_hypereditor_learns(tmp_path: Path, loss: str) -> None:
    torch.manual_seed(0)
    source = small_generator()
    e4e = encoders.build(encoders.EncoderConfig(widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), style_width=8), source).eval()
    judges = hypereditor.Judges(
        generator=source,
        mean_latent=torch.zeros(80),
        e4e=e4e,  # type: ignore[arg-type]
        clip=ClipModel(model=clip.MODEL, merges=200).eval(),
        identity=IdentityNet(widths=(8, 8, 8, 8)).eval(),
        attributes=AttributeNet(groups=attributes.GROUPS, binary=attributes.BINARY, widths=(8, 8, 8, 8)).eval(),
        threshold=0.5,
    )
    instructions = (
        Instruction(name="smile", source="a face", target="a smiling face", expects={"smile": True}),
        Instruction(name="zombie", source="a photo of a face", target="a zombie", expects={"style_zombie": True}),
    )
    config = hypereditor.HyperEditorConfig(
        widths=(8, 8, 8, 16), inner=8, pictures=48, phases=((40, 0.0), (20, 0.0)), batch=4, identity=0.0, loss=loss
    )  # type: ignore[arg-type]
    net, _ = hypereditor.train(config, tmp_path, judges=judges, instructions=instructions)
    recorded = losses(tmp_path / "hypereditor.jsonl", "clip")
    assert min(recorded[1:]) < recorded[0]
    detail = hypereditor.measure(net, judges=judges, instructions=instructions, pictures=10)
    assert detail["smile"]["portraits"] == 10
    assert 0 <= hypereditor.summary(detail)["success_mean"] <= 1


def test_stage_is_done_only_for_its_own_settings(tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "done").write_text(fingerprint("identity"))
    assert is_done("identity", tmp_path)
    (tmp_path / "identity" / "done").write_text("of other settings")
    assert not is_done("identity", tmp_path)
    assert all(need in stages() for stage in stages().values() for need in stage.needs)
