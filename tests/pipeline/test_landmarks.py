"""Landmarks that a sample brings decide its crop; a library finds those of photos, and both are taken as FFHQ's script takes them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.align import Aligner, CentreSquare, crop, frame_from_landmarks
from pipeline.feed import Ready, read_shard
from pipeline.images import ImageHWC, Limits, decode_image, fit_square
from pipeline.landmarks import FaceLibrary, MissingLibraryError, five_of, supplied
from pipeline.sample import FailedSample, Sample, SampleFailure
from pipeline.settings import ShardTask
from pipeline.shard_writer import ShardWriter
from pipeline.storage import Storage

SIXTY_EIGHT = np.random.default_rng(1).uniform(-3, 3, (68, 2)) + np.array([60.0, 50.0])
SIXTY_EIGHT[36:42] += (-15, -8)
SIXTY_EIGHT[42:48] += (15, -8)
SIXTY_EIGHT[48] += (-10, 18)
SIXTY_EIGHT[54] += (10, 18)
FIVE = [[45.0, 42.0], [75.0, 42.0], [60.0, 54.0], [50.0, 68.0], [70.0, 68.0]]


def picture(width: int = 120, height: int = 100, *, turned: bool = False) -> bytes:
    """Return a JPEG without a hidden symmetry; `turned` stores it lying, with the tag that turns it upright."""
    y, x = np.mgrid[:height, :width].astype(float)
    colours = np.stack([x * 250 / width, y * 250 / height, 128 + 100 * np.sin((x + 2 * y) * 12 / width)], axis=-1).astype(np.uint8)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6 if turned else 1
    image = Image.fromarray(colours)
    (image.transpose(Image.Transpose.ROTATE_90) if turned else image).save(buffer, format="JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def sample(landmarks: object, *, image: bytes | None = None) -> Sample:
    members = {"jpg": image or picture(), "json": json.dumps({"landmarks": landmarks, "age": 3}).encode()}
    return Sample(key="alice", shard="0", index=0, members=members, image_ext="jpg")


def points_of(one: Sample, limits: Limits | None = None) -> Tensor | None:
    return supplied(one, decode_image(one.image, limits))


def test_sixty_eight_are_taken_as_ffhq_takes_them() -> None:
    """The published script's own lines: means of the outlines of the eyes, the outer corners of the mouth, half a pixel on the quad."""
    lm = SIXTY_EIGHT
    eye_left, eye_right = np.mean(lm[36:42], axis=0), np.mean(lm[42:48], axis=0)
    eye_avg, eye_to_eye = (eye_left + eye_right) * 0.5, eye_right - eye_left
    mouth_outer = lm[48:60]
    eye_to_mouth = (mouth_outer[0] + mouth_outer[6]) * 0.5 - eye_avg
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y, c = np.flipud(x) * [-1, 1], eye_avg + eye_to_mouth * 0.1
    quad = np.stack([c - x - y, c - x + y, c + x + y, c + x - y]) + 0.5
    points = points_of(sample(lm.tolist()))
    assert points is not None and points.shape == (5, 2)
    affine = frame_from_landmarks(points[None])[0].numpy()
    corners = np.array([[-1, -1, 1], [-1, 1, 1], [1, 1, 1], [1, -1, 1]])
    np.testing.assert_allclose(corners @ affine.T, quad, atol=1e-9)
    np.testing.assert_array_equal(points.numpy()[2], lm[30] + 0.5)


def test_five_are_taken_as_they_are_and_follow_a_picture_that_is_reduced_or_turned() -> None:
    expected = torch.tensor(FIVE, dtype=torch.float64) + 0.5
    points = points_of(sample(FIVE))
    assert points is not None and torch.equal(points, expected)
    reduced = points_of(sample(FIVE), Limits(working_side=60))
    assert reduced is not None and torch.allclose(reduced, expected / 2)
    upright = points_of(sample(FIVE, image=picture(turned=True)))
    assert upright is not None and torch.equal(upright, expected)
    assert decode_image(picture(turned=True)).shape == (100, 120, 3)


@pytest.mark.parametrize("landmarks", [
    {"left_eye": [1, 2], "right_eye": [3, 4]}, FIVE[:4], [[0, 0]] * 98, "68", None, 5,
])  # fmt: skip
def test_other_landmarks_are_nobodys_business(landmarks: object) -> None:
    assert points_of(sample(landmarks)) is None


@pytest.mark.parametrize("member", [b"", b"no json landmarks", b'["landmarks"]', b'{"landmarks": ' + b"[" * 100_000])
def test_other_members_are_nobodys_business(member: bytes) -> None:
    one = sample(FIVE)
    one.members["json"] = member
    assert points_of(one) is None
    del one.members["json"]
    assert points_of(one) is None


@pytest.mark.parametrize(
    "landmarks", [[*FIVE[:4], [1.0]], [*FIVE[:4], [1, "x"]], [*FIVE[:4], [1, float("nan")]], [1, 2, 3, 4, 5], [[[1, 2]]] * 5]
)
def test_wrong_numbers_fail_the_sample(landmarks: object) -> None:
    with pytest.raises(SampleFailure, match="align: alice.json: landmarks: expected 5 pairs of finite numbers, found"):
        points_of(sample(landmarks))


class Finder:
    """Stand for a landmark network that puts every face at one place, and count what it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def locate(self, images: list[ImageHWC]) -> tuple[Tensor, Tensor]:
        self.seen += len(images)
        return torch.tensor(FIVE).expand(len(images), -1, -1) + 20.0, torch.full((len(images),), 0.9)


def test_in_a_shard_only_samples_without_landmarks_are_searched(tmp_path: Path) -> None:
    everyone: Sequence[object] = [FIVE, {"left_eye": [1, 2]}, [[1, float("inf")]] * 5, SIXTY_EIGHT.tolist(), [[50, 50]] * 5]
    with ShardWriter(Storage(str(tmp_path)), "a.tar") as shard:
        for number, landmarks in enumerate(everyone):
            shard.write(str(number), {"jpg": picture(), "json": json.dumps({"landmarks": landmarks}).encode()})
    finder = Finder()
    _, *chunks = read_shard(ShardTask(url=str(tmp_path / "a.tar"), name="a"), Aligner(finder, size=32))
    made = [entry for chunk in chunks if isinstance(chunk, list) for entry in chunk]
    assert finder.seen == 1 and [type(entry) for entry in made] == [Ready, Ready, FailedSample, Ready, FailedSample]
    places = [torch.tensor(FIVE).double() + 0.5, torch.tensor(FIVE).double() + 20, torch.from_numpy(five_of(SIXTY_EIGHT)) + 0.5]
    ready = [entry for entry in made if isinstance(entry, Ready)]
    image = decode_image(picture())
    for entry, place in zip(ready, places, strict=True):
        assert np.array_equal(entry.aligned_HWC, crop(image, frame_from_landmarks(place[None])[0], 32))
    reasons = [entry.reason for entry in made if isinstance(entry, FailedSample)]
    assert "expected 5 pairs of finite numbers" in reasons[0] and "located at the same point" in reasons[1]


def test_the_centre_is_cut_out_whatever_landmarks_a_sample_brings(tmp_path: Path) -> None:
    with ShardWriter(Storage(str(tmp_path)), "a.tar") as shard:
        for number, landmarks in enumerate((FIVE, [[1, float("inf")]] * 5)):
            shard.write(str(number), {"jpg": picture(), "json": json.dumps({"landmarks": landmarks}).encode()})
    task = ShardTask(url=str(tmp_path / "a.tar"), name="a", align="centre")
    _, *chunks = read_shard(task, CentreSquare(size=32))
    made = [entry for chunk in chunks if isinstance(chunk, list) for entry in chunk]
    assert len(made) == 2
    assert all(isinstance(entry, Ready) and np.array_equal(entry.aligned_HWC, fit_square(decode_image(picture()), 32)) for entry in made)


class FaceAlignment:
    """Answer as `face_alignment.FaceAlignment` 1.5 does: faces and boxes, or three times None. Finds a face per bright picture."""

    def __init__(self, landmarks_type: int, *, device: str, flip_input: bool, compile: bool) -> None:
        assert landmarks_type == 1 and device == "cpu" and not compile

    def get_landmarks_from_image(self, image: ImageHWC, return_bboxes: bool = False) -> tuple[object, None, object]:
        if image.mean() < 128:
            return None, None, None
        small, large = SIXTY_EIGHT.astype(np.float32) / 4, SIXTY_EIGHT.astype(np.float32)
        return [small, large], None, [np.array([0, 0, 9, 9, 0.99]), np.array([20, 20, 90, 90, 0.75])]


def test_the_library_gives_the_largest_face(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("face_alignment")
    module.FaceAlignment = FaceAlignment  # type: ignore[attr-defined]
    module.LandmarksType = type("LandmarksType", (), {"TWO_D": 1})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "face_alignment", module)
    bright, dark = (np.full((100, 120, 3), value, dtype=np.uint8) for value in (200, 20))
    points, scores = FaceLibrary().locate([dark, bright])
    assert scores.tolist() == [0.0, 0.75] and points[0].isnan().all()
    np.testing.assert_allclose(points[1].numpy(), five_of(SIXTY_EIGHT.astype(np.float32).astype(float)) + 0.5)
    none, face = Aligner(FaceLibrary(), size=16).align_all([dark, bright])
    assert isinstance(none, SampleFailure) and "no face found: face score 0.00" in none.reason
    assert isinstance(face, np.ndarray) and face.shape == (16, 16, 3)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(MissingLibraryError, match=r"install the extra `faces` \(pip install '.\[faces\]'\)"):
        FaceLibrary().locate([np.zeros((10, 10, 3), dtype=np.uint8)])
