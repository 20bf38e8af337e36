"""Alignment: the FFHQ frame as published, the same face from any turn, scale and place, and clean pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pipeline.align import LANDMARK_NAMES, Aligner, crop, frame_from_landmarks
from pipeline.images import ImageHWC
from pipeline.sample import SampleFailure

torch.set_num_threads(1)

FACE = torch.tensor(
    [[80.0, 90], [120, 90], [100, 112], [86, 132], [114, 132], [100, 160], [62, 125], [138, 125], [100, 133]], dtype=torch.float64
)


def moved(points: Tensor, *, turn: float, scale: float, shift: tuple[float, float]) -> Tensor:
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    return points @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64) + torch.tensor(shift, dtype=torch.float64)


def in_frame(points: Tensor, affine_23: Tensor) -> Tensor:
    return torch.linalg.solve(affine_23[:, :2], (points - affine_23[:, 2]).T).T


def test_the_frame_is_that_of_ffhq() -> None:
    """The quad of the published script, spelled with its own variable names, for a face that is turned and lopsided."""
    points = moved(FACE, turn=0.4, scale=1.3, shift=(20, -10)).numpy()
    points[3] += (4, 7)
    eye_avg, eye_to_eye = (points[0] + points[1]) / 2, points[1] - points[0]
    eye_to_mouth = (points[3] + points[4]) / 2 - eye_avg
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x = x / np.hypot(*x) * max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    c = eye_avg + eye_to_mouth * 0.1
    quad = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])
    affine = frame_from_landmarks(torch.from_numpy(points)[None])[0].numpy()
    corners = np.array([[-1, -1, 1], [-1, 1, 1], [1, 1, 1], [1, -1, 1]])
    np.testing.assert_allclose(corners @ affine.T, quad, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(turn=st.floats(-3.1, 3.1), scale=st.floats(0.2, 5), x=st.floats(-500, 500), y=st.floats(-500, 500))
def test_the_frame_moves_with_the_face(turn: float, scale: float, x: float, y: float) -> None:
    """Law: turn, scale and shift a face as you like: inside of its frame it stays where it was."""
    points = moved(FACE, turn=turn, scale=scale, shift=(x, y))
    both = frame_from_landmarks(torch.stack([FACE, points]))
    torch.testing.assert_close(in_frame(points, both[1]), in_frame(FACE, both[0]), atol=1e-6, rtol=0)


def test_only_eyes_and_mouth_corners_count_and_gradients_flow() -> None:
    points = FACE.float()[None].clone().requires_grad_()
    frame_from_landmarks(points).sum().backward()
    assert points.grad is not None
    used = {name for name, gradient in zip(LANDMARK_NAMES, points.grad[0].abs().sum(dim=1), strict=True) if gradient > 0}
    assert used == {"left_eye", "right_eye", "mouth_left", "mouth_right"}


def painted(points: Tensor, size: tuple[int, int] = (400, 300)) -> ImageHWC:
    """A smooth picture whose colours depend on the place inside of the frame alone."""
    affine = frame_from_landmarks(points[None])[0]
    y, x = torch.meshgrid(torch.arange(size[1]).double() + 0.5, torch.arange(size[0]).double() + 0.5, indexing="ij")
    u, v = in_frame(torch.stack([x.ravel(), y.ravel()], dim=1), affine).T
    colours = torch.stack([128 + 100 * torch.sin(3 * u), 128 + 100 * torch.cos(2 * v), 128 + 90 * torch.sin(u * v)], dim=1)
    return colours.reshape(size[1], size[0], 3).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("size", [32, 64, 100, 256])
@pytest.mark.parametrize("turn", [0.0, 0.5, -2.0])
def test_crops_hold_the_face_to_a_fraction_of_a_pixel(size: int, turn: float) -> None:
    points = moved(FACE - 100, turn=turn, scale=0.9, shift=(200, 150))
    image = painted(points)
    cut = crop(image, frame_from_landmarks(points[None])[0], size)
    assert cut.shape == (size, size, 3) and cut.dtype == np.uint8 and cut.flags.writeable
    grid = (np.arange(size) + 0.5) * 2 / size - 1
    u, v = np.meshgrid(grid, grid)
    expected = np.stack([128 + 100 * np.sin(3 * u), 128 + 100 * np.cos(2 * v), 128 + 90 * np.sin(u * v)], axis=-1)
    error = np.abs(cut.astype(float) - expected)
    # One output pixel at 64 is up to 9 grey levels here: 2.5 is well below a third of a pixel.
    assert error.max() < 4 and error.mean() < 1


def test_shrinking_does_not_alias() -> None:
    """A fine chessboard becomes grey, whatever the scale and the turn."""
    board = (np.indices((600, 600)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[:, :, None], 3, axis=2)
    for scale in (2.0, 3.3, 6.0):
        for turn in (0.0, 0.3, 0.785):
            points = moved(FACE - 100, turn=turn, scale=scale / 2, shift=(300, 300))
            cut = crop(image, frame_from_landmarks(points[None])[0], 32)
            assert abs(cut.mean() - 127.5) < 3 and cut.std() < 14, (scale, turn, cut.std())


def test_outside_is_a_reflection() -> None:
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    image[:, :50] = (250, 0, 0)
    image[:, 50:] = (0, 0, 250)
    affine = torch.tensor([[100.0, 0, 0], [0, 100, 50]])  # x from -100 to 100: the left half is outside
    cut = crop(image, affine, 64)
    red, blue = np.array([250, 0, 0]), np.array([0, 0, 250])
    # Columns of 3.125 source pixels: blue from -100, red from -50, red until 50, blue until 100.
    assert (cut[:, :15] == blue).all() and (cut[:, 17:47] == red).all() and (cut[:, 49:] == blue).all()
    single = np.full((1, 1, 3), 7, dtype=np.uint8)
    assert (crop(single, affine, 16) == 7).all()


def test_crops_are_deterministic() -> None:
    image = np.random.default_rng(0).integers(0, 255, (333, 257, 3), dtype=np.uint8)
    affine = frame_from_landmarks(moved(FACE, turn=0.2, scale=1.1, shift=(3, 5))[None])[0]
    assert np.array_equal(crop(image, affine, 64), crop(image.copy(), affine.clone(), 64))


class Finder:
    """Stand for a landmark network: say what it was told, in order."""

    def __init__(self, landmarks: list[Tensor], scores: list[float]) -> None:
        self.landmarks, self.scores = torch.stack(landmarks), torch.tensor(scores)

    def locate(self, images: list[ImageHWC]) -> tuple[Tensor, Tensor]:
        return self.landmarks[: len(images)].float(), self.scores[: len(images)]


def test_faces_are_aligned_and_the_rest_is_refused_one_by_one() -> None:
    nan = torch.full_like(FACE, float("nan"))
    landmarks = [FACE, FACE, FACE * 0 + 50, nan, (FACE - 100) * 0.02 + 50, FACE * 40]
    image = np.asarray(Image.new("RGB", (200, 200), (9, 9, 9)))
    aligner = Aligner(Finder(landmarks, [0.9, 0.2, 0.9, 0.9, 0.9, 0.9]), size=64)
    results = aligner.align_all([image] * 6)
    good = results[0]
    assert isinstance(good, np.ndarray) and good.shape == (64, 64, 3)
    reasons = [result.reason for result in results[1:] if isinstance(result, SampleFailure)]
    assert [reason.split(":")[0] for reason in reasons] == [
        "no face found", "no face found", "no face found", "the face is too small", "no face found",
    ]  # fmt: skip
    assert "face score 0.20, expected 0.50 or more" in reasons[0] and "same point" in reasons[1]
    assert aligner.align_all([]) == []
    assert np.array_equal(aligner.align(image), good)
    with pytest.raises(SampleFailure, match="align: no face found: face score nan"):
        Aligner(Finder([FACE], [float("nan")]), size=64).align(image)
