"""Scores of an edit against computations made by other means."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import AlexNet_Weights, alexnet

from models.instruction import Instruction
from models.pack import Pack, start_pack, write_numbers
from models.perceptual import PerceptualDistance
from pipeline.attributes import AttributeJudge, AttributeVerdict, reads_reliably
from pipeline.frechet import Moments
from pipeline.score import EditScores, Scorer, SourceFeatures
from tests.models.small_pack import BINARY, GROUPS, write_small_pack

torch.set_num_threads(1)
SMILE = Instruction(name="smile", source="a face", target="a smiling face", expects={"smile": True})
PLAIN = Instruction(name="plain", source="a face", target="another face")
ZOMBIE = Instruction(name="zombie", source="a face", target="a zombie", expects={"style_zombie": True})


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.load(write_small_pack(tmp_path_factory.mktemp("pack")))


@pytest.fixture(scope="module")
def scorer(pack: Pack) -> Scorer:
    return Scorer(pack)


def images(count: int, *, seed: int) -> Tensor:
    """Smooth random pictures of 64x64 in [-1, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=64, mode="bilinear")


ALIGNED, INVERTED, EDITED = images(3, seed=1), images(3, seed=2), images(3, seed=3)


@pytest.fixture(scope="module")
def source(scorer: Scorer) -> SourceFeatures:
    return scorer.source(ALIGNED, INVERTED)


@pytest.fixture(scope="module")
def scores(scorer: Scorer, source: SourceFeatures) -> list[EditScores]:
    return scorer.edit(source, EDITED, SMILE)


def unit(image: Tensor) -> np.ndarray:
    return (image.double().numpy() + 1) / 2


def psnr_by_hand(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(1 / float(((unit(a) - unit(b)) ** 2).mean()))


def ssim_by_hand(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004: 11x11 Gaussian windows of sigma 1.5, pixels in [0, 1], borders mirrored, mean over all."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    padded = [np.pad(unit(image), ((0, 0), (5, 5), (5, 5)), mode="reflect") for image in (a, b)]
    x, y = (np.lib.stride_tricks.sliding_window_view(image, (11, 11), axis=(1, 2)) for image in padded)

    def mean(values: np.ndarray) -> np.ndarray:
        return (values * window).sum(axis=(-1, -2))

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def direction(before: np.ndarray, after: np.ndarray, text: np.ndarray) -> float:
    return cosine(after / np.linalg.norm(after) - before / np.linalg.norm(before), text)


@pytest.mark.parametrize("row", range(3))
def test_pixel_scores_are_those_of_the_formulas(scores: list[EditScores], row: int) -> None:
    assert scores[row].psnr == pytest.approx(psnr_by_hand(ALIGNED[row], EDITED[row]), rel=1e-5)
    assert scores[row].psnr_inversion == pytest.approx(psnr_by_hand(INVERTED[row], EDITED[row]), rel=1e-5)
    assert scores[row].ssim == pytest.approx(ssim_by_hand(ALIGNED[row], EDITED[row]), abs=2e-4)


def test_lpips_is_that_of_the_package(scorer: Scorer, scores: list[EditScores]) -> None:
    with torch.no_grad():
        input_to_edit = scorer.perceptual.network(ALIGNED, EDITED).flatten().tolist()
        inversion_to_edit = scorer.perceptual.network(INVERTED, EDITED).flatten().tolist()
    assert [row.lpips for row in scores] == pytest.approx(input_to_edit, rel=1e-5)
    assert [row.lpips_inversion for row in scores] == pytest.approx(inversion_to_edit, rel=1e-5)


@pytest.mark.parametrize("row", range(3))
def test_identity_and_clip_scores_are_cosines(pack: Pack, scores: list[EditScores], row: int) -> None:
    clip, identity = pack.clip(), pack.identity()
    texts = [text.double().numpy() for text in clip.embed_texts(["a face", "a smiling face"])]
    aligned, inverted, edited = (clip.embed_images(image[row : row + 1])[0].double().numpy() for image in (ALIGNED, INVERTED, EDITED))
    who, after = (identity(image[row : row + 1])[0].double().numpy() for image in (ALIGNED, EDITED))
    assert scores[row].identity == pytest.approx(cosine(who, after), abs=1e-5)
    assert scores[row].clip_score == pytest.approx(100 * cosine(edited, texts[1]), abs=1e-3)
    assert scores[row].clip_directional == pytest.approx(direction(aligned, edited, texts[1] - texts[0]), abs=1e-4)
    assert scores[row].clip_directional_inversion == pytest.approx(direction(inverted, edited, texts[1] - texts[0]), abs=1e-4)


def test_an_edit_that_changes_nothing(scorer: Scorer, source: SourceFeatures) -> None:
    for row in scorer.edit(source, ALIGNED, PLAIN):
        assert (row.psnr, row.ssim, row.lpips, row.clip_directional) == (100.0, pytest.approx(1), 0.0, 0.0)
        assert row.identity == pytest.approx(1, abs=1e-5) and row.same_person
        assert (row.success, row.collateral, row.flips, row.attributes_reliable) == (None, 0, (), True)


def test_the_same_person_is_one_above_the_threshold_of_the_pack(tmp_path: Path, scores: list[EditScores]) -> None:
    folder = write_small_pack(tmp_path)
    middle = sorted(row.identity for row in scores)[1]
    write_numbers(folder, "identity", {"threshold_far1": middle - 1e-6})
    strict = Scorer(Pack.load(folder))
    found = strict.edit(strict.source(ALIGNED, INVERTED), EDITED, SMILE)
    assert sum(row.same_person for row in found) == 2
    assert all(row.same_person == (row.identity > middle - 1e-5) for row in found)


def test_pictures_are_scored_as_they_are_written(scorer: Scorer, source: SourceFeatures) -> None:
    assert scorer.edit(source, EDITED * 3, SMILE) == scorer.edit(source, (EDITED * 3).clamp(-1, 1), SMILE)


def test_one_batch_or_several_give_the_same_scores(scorer: Scorer, scores: list[EditScores]) -> None:
    for row in range(3):
        alone = scorer.edit(scorer.source(ALIGNED[row : row + 1], INVERTED[row : row + 1]), EDITED[row : row + 1], SMILE)[0]
        for name, value in dataclasses.asdict(alone).items():
            assert value == pytest.approx(getattr(scores[row], name), abs=1e-4), name


def test_equal_calls_give_equal_scores(pack: Pack, scores: list[EditScores]) -> None:
    again = Scorer(pack)
    assert again.edit(again.source(ALIGNED, INVERTED), EDITED, SMILE) == scores


def test_styles_are_said_to_be_read_less_reliably(scorer: Scorer, source: SourceFeatures) -> None:
    assert all(not row.attributes_reliable and row.success is not None for row in scorer.edit(source, EDITED, ZOMBIE))


def test_moments_hold_what_was_scored(pack: Pack, scorer: Scorer) -> None:
    before, after = Moments.empty(16), Moments.empty(16)
    scorer.edit(scorer.source(ALIGNED, INVERTED, moments=before), EDITED, SMILE, moments=after)
    for moments, pictures in ((before, ALIGNED), (after, EDITED)):
        embedded = pack.clip().embed_images(pictures).double().numpy()
        unit_length = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
        np.testing.assert_allclose(moments.total_E, unit_length.sum(0), atol=1e-5)
    assert before.count == after.count == 3


def test_an_attribute_that_the_classifier_does_not_know_is_named(scorer: Scorer, source: SourceFeatures) -> None:
    wrong = Instruction(name="smile", source="a", target="b", expects={"smiles": True})
    with pytest.raises(ValueError, match=r"'smile': expects the attribute 'smiles'.*did you mean 'smile'"):
        scorer.check([SMILE, wrong])
    with pytest.raises(ValueError, match="smiles"):
        scorer.edit(source, EDITED, wrong)


def test_without_an_attribute_classifier_an_edit_is_scored_but_not_judged(tmp_path: Path, scores: list[EditScores]) -> None:
    bare = Scorer(Pack.load(write_small_pack(tmp_path, without=("attributes", "landmarks"))))
    plain = Instruction(name=SMILE.name, source=SMILE.source, target=SMILE.target)
    found = bare.edit(bare.source(ALIGNED, INVERTED), EDITED, plain)
    assert [row.clip_directional for row in found] == [row.clip_directional for row in scores]
    assert all(row.success is None and row.collateral is None and row.flips == () for row in found)
    with pytest.raises(ValueError, match="'smile': expects 'smile', but this pack has no attribute classifier"):
        bare.check([SMILE])


def test_without_clip_inversions_are_scored_alike_and_edits_refused(tmp_path: Path, scorer: Scorer, source: SourceFeatures) -> None:
    few = Pack.load(write_small_pack(tmp_path, without=("attributes", "clip")))
    bare, moments = Scorer(few), Moments.empty(16)
    seen = bare.source(ALIGNED, INVERTED, moments=moments)
    rows, known = bare.inversion(seen), scorer.inversion(source)
    assert [{**row, "identity": 0, "same_person": 0} for row in rows] == [{**row, "identity": 0, "same_person": 0} for row in known]
    same = (few.identity()(ALIGNED) * few.identity()(INVERTED)).sum(1)
    assert [row["identity"] for row in rows] == pytest.approx(same.tolist(), abs=1e-5) and moments.count == 3
    np.testing.assert_allclose(moments.total_E, seen.identity_BE.double().numpy().sum(0), atol=1e-5)
    assert "identity network" in bare.features["frechet"] and "CLIP" in scorer.features["frechet"]
    with pytest.raises(ValueError, match="'plain': this pack has no CLIP"):
        bare.edit(seen, EDITED, PLAIN)


def test_without_an_identity_network_the_rest_is_scored_alike(tmp_path: Path, scorer: Scorer, scores: list[EditScores]) -> None:
    folder = write_small_pack(tmp_path)
    info = Pack.load(folder).info
    start_pack(
        folder,
        name="few",
        domain="walls",
        size=info.size,
        licence="x",
        provenance={},
        keep=[one for one in info.networks if one != "identity"],
    )
    bare = Scorer(Pack.load(folder))
    source = bare.source(ALIGNED, INVERTED)
    found, empty = bare.edit(source, EDITED, SMILE), {"identity": None, "same_person": None}
    assert [dataclasses.asdict(row) for row in found] == [dataclasses.asdict(row) | empty for row in scores]
    known = scorer.inversion(scorer.source(ALIGNED, INVERTED))
    assert bare.inversion(source) == [row | empty for row in known]
    reason = "not measured, since the pack has no identity network"
    assert bare.features == {**scorer.features, "frechet": bare.features["frechet"], "identity": reason, "same_person": reason}


def test_without_a_threshold_nobody_says_who_is_the_same_person(tmp_path: Path, scorer: Scorer, scores: list[EditScores]) -> None:
    folder = write_small_pack(tmp_path)
    index = (folder / "pack.yaml").read_text()
    assert index.count("threshold_far1: 0.5") == 1
    (folder / "pack.yaml").write_text(index.replace("threshold_far1: 0.5", "other: 0.5"))
    bare = Scorer(Pack.load(folder))
    source = bare.source(ALIGNED, INVERTED)
    assert bare.edit(source, EDITED, SMILE) == [dataclasses.replace(row, same_person=None) for row in scores]
    assert all(row["same_person"] is None and row["identity"] is not None for row in bare.inversion(source))
    assert "no number threshold_far1" in bare.features["same_person"] and scorer.features.keys() == {"lpips", "frechet"}


def test_with_neither_clip_nor_identity_there_are_no_moments(tmp_path: Path) -> None:
    bare, moments = Scorer(Pack.load(write_small_pack(tmp_path, without=("identity", "clip", "attributes")))), Moments.empty(16)
    rows = bare.inversion(bare.source(ALIGNED, INVERTED, moments=moments), moments=moments)
    assert moments.count == 0 and bare.features["frechet"] == "not measured, since the pack has neither CLIP nor an identity network"
    assert all(row.keys() == {"psnr", "ssim", "lpips", "identity", "same_person"} and row["identity"] is None for row in rows)


def test_batches_of_different_length_are_refused(scorer: Scorer, source: SourceFeatures) -> None:
    with pytest.raises(ValueError, match="smile: 2 edited images for 3 sources"):
        scorer.edit(source, EDITED[:2], SMILE)


NAMES = (*(name for members in GROUPS.values() for name in members), *BINARY)
JUDGE = AttributeJudge(names=NAMES, groups=GROUPS)
FACE = {"neutral": 0.9, "no_eyewear": 0.9, "hair_brown": 0.9, "style_photo": 0.9}


def face(**more: float) -> list[float]:
    """Probabilities of a neutral, brown-haired photo with nothing else, changed as given."""
    values = dict.fromkeys(NAMES, 0.02) | FACE | more
    return [values[name] for name in NAMES]


@pytest.mark.parametrize(
    ("after", "expects", "success", "flips"),
    [
        (face(), {}, None, ()),
        (face(), {"smile": True}, False, ()),
        (face(smile=0.8, neutral=0.1), {"smile": True}, True, ()),  # neutral had to go
        (face(smile=0.8, neutral=0.1), {"beard": True}, False, ("smile",)),  # a group counts once, as what it became
        (face(angry=0.8, neutral=0.1), {"smile": True}, False, ("angry",)),  # neutral went, but to something else
        (face(beard=0.7), {"beard": True}, True, ()),
        (face(beard=0.7, hat=0.9), {"beard": True}, True, ("hat",)),
        (face(beard=0.5), {"beard": True}, False, ()),  # one half is not present
        (face(hair_brown=0.4, hair_blond=0.35), {}, None, ()),  # the most likely member decides, below one half too
        (face(hair_brown=0.3, hair_blond=0.4, lipstick=0.6), {}, None, ("hair_blond", "lipstick")),
        (face(glasses=0.8, no_eyewear=0.1), {"no_eyewear": False}, True, ()),  # it had to become something
        (face(style_zombie=0.8, style_photo=0.1), {"style_zombie": True}, True, ()),
        (face(style_oil=0.8, style_photo=0.1, bald=0.9), {"style_zombie": True}, False, ("style_oil", "bald")),
        (face(smile=0.8, neutral=0.1), {"smile": True, "beard": True}, False, ()),  # all that is expected must hold
    ],
)
def test_verdicts(after: list[float], expects: dict[str, bool], success: bool | None, flips: tuple[str, ...]) -> None:
    assert JUDGE.verdict(face(), after, expects) == AttributeVerdict(success=success, flips=flips)


def test_only_a_wished_style_makes_the_reading_unreliable() -> None:
    assert reads_reliably({"smile": True, "style_zombie": False}) and not reads_reliably({"style_zombie": True})


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """A torch hub cache of its own, empty."""
    old = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(old)


def test_without_weights_it_says_that_they_are_random(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, again = PerceptualDistance(), PerceptualDistance()
    assert first.description == "alexnet, random weights (seed 0), not calibrated: no pretrained AlexNet on this machine"
    assert first.description in caplog.text
    torch.testing.assert_close(
        first.distance(first.features(ALIGNED), first.features(EDITED)), again.distance(again.features(ALIGNED), again.features(EDITED))
    )


def test_building_it_leaves_the_random_numbers_alone(hub: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    PerceptualDistance()
    assert torch.equal(torch.rand(1), expected)


def test_damaged_weights_are_not_used_and_named(hub: Path) -> None:
    (hub / "alexnet-owt-7be5be79.pth").write_bytes(b"half a download")
    assert "alexnet-owt-7be5be79.pth is damaged" in PerceptualDistance().description


def test_weights_of_the_machine_are_used(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        weights = alexnet().state_dict()
    small = {name: value.flatten()[:1].expand(value.shape) if name.startswith("classifier") else value for name, value in weights.items()}
    torch.save(small, hub / "new.pth")
    digest = hashlib.sha256((hub / "new.pth").read_bytes()).hexdigest()[:8]
    (hub / "new.pth").rename(hub / f"alexnet-own-{digest}.pth")
    released = AlexNet_Weights.IMAGENET1K_V1
    monkeypatch.setattr(released, "_value_", dataclasses.replace(released.value, url=f"https://nowhere.invalid/alexnet-own-{digest}.pth"))
    perceptual = PerceptualDistance()
    assert perceptual.description == "alexnet, released ImageNet weights, LPIPS 0.1 calibration"
    with pytest.warns(UserWarning, match="deprecated"):  # how the package asks torchvision for a network
        reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    features = {name.removeprefix("features."): value for name, value in weights.items() if name.startswith("features.")}
    for part in (reference.net.slice1, reference.net.slice2, reference.net.slice3, reference.net.slice4, reference.net.slice5):
        part.load_state_dict({name: value for name, value in features.items() if name.split(".")[0] in dict(part.named_children())})
    with torch.no_grad():
        expected = reference(ALIGNED, EDITED).flatten()
    torch.testing.assert_close(
        perceptual.distance(perceptual.features(ALIGNED), perceptual.features(EDITED)), expected, rtol=1e-4, atol=1e-6
    )


def test_pictures_too_small_for_alexnet_are_refused(scorer: Scorer) -> None:
    with pytest.raises(ValueError, match="at least 32x32 pixels, found 16x16"):
        scorer.perceptual.features(ALIGNED[:, :, :16, :16])
