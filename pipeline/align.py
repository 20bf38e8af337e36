"""Cut the face out of a picture: the FFHQ frame, from the eyes and the corners of the mouth. Off faces: the centred square.

Coordinates are continuous: pixel i of a picture covers [i, i + 1), so its centre is i + 0.5. Inside a frame, -1 and 1 are the
edges of the output picture (x to the right, y down), as in `grid_sample(align_corners=False)`.

Shapes: B pictures, K = 9 landmarks, 2 = (x, y).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.images import ImageHWC, fit_square
from pipeline.sample import SampleFailure

STAGE = "align"
LANDMARK_NAMES = (
    "left_eye", "right_eye", "nose_tip", "mouth_left", "mouth_right", "chin", "nose_left", "nose_right", "mouth_centre",
)  # fmt: skip
MIN_FACE_SCORE = 0.5
MIN_FACE_PIXELS = 8.0
MAX_FRAME_RATIO = 3.0
SAMPLE_SLACK = 0.25


def frame_from_landmarks(landmarks_BK2: Tensor) -> Tensor:
    """Return affines (B, 2, 3) that map frame coordinates (x, y, 1), -1..1, to source pixels.

    The frame of FFHQ (Karras et al. 2019): centre = middle of the eyes + 0.1 * eye-to-mouth; half width = max(2.0 * distance of
    the eyes, 1.8 * eye-to-mouth); turned to the mean of the eye line and the normal of eye-to-mouth. Differentiable. Left and
    right are as seen in the picture. Only the eyes and the mouth corners count; landmarks that coincide give a non-finite frame.
    """
    left_eye, right_eye = landmarks_BK2[:, 0], landmarks_BK2[:, 1]
    mouth = (landmarks_BK2[:, 3] + landmarks_BK2[:, 4]) * 0.5
    eyes = (left_eye + right_eye) * 0.5
    eye_to_eye, eye_to_mouth = right_eye - left_eye, mouth - eyes
    across = eye_to_eye + torch.stack((eye_to_mouth[:, 1], -eye_to_mouth[:, 0]), dim=1)
    half_width = torch.maximum(2.0 * eye_to_eye.norm(dim=1), 1.8 * eye_to_mouth.norm(dim=1))
    across = across / across.norm(dim=1, keepdim=True) * half_width[:, None]
    down = torch.stack((-across[:, 1], across[:, 0]), dim=1)
    return torch.stack((across, down, eyes + 0.1 * eye_to_mouth), dim=2)


def crop(image_HWC: ImageHWC, affine_23: Tensor, size: int) -> ImageHWC:
    """Return the frame as a picture (size, size, 3) uint8, antialiased; what lies outside of the source is its reflection.

    The part under the frame is reduced by a whole number first, then sampled (bilinear) on a grid of at most 1.25 of its
    pixels, then averaged: so neither shrinking nor turning aliases. Deterministic. Differs from FFHQ: the reflection is not blurred.
    """
    matrix = affine_23.detach().cpu().double().numpy()
    source_per_output = 2.0 * float(np.hypot(*matrix[:, 0])) / size
    reduction = max(1, int(source_per_output / 2.0))
    samples = max(1, int(np.ceil(source_per_output / reduction - SAMPLE_SLACK)))
    patch, origin_xy = _patch_under(image_HWC, matrix, reduction)
    fine = size * samples
    to_frame = np.array([[2.0 / fine, 0.0, -1.0], [0.0, 2.0 / fine, -1.0], [0.0, 0.0, 1.0]])
    to_patch = matrix @ to_frame
    to_patch[:, 2] -= origin_xy
    to_patch /= reduction
    picture = Image.fromarray(patch).transform(
        (fine, fine), Image.Transform.AFFINE, tuple(to_patch.ravel()), resample=Image.Resampling.BILINEAR
    )
    return np.array(picture.reduce(samples) if samples > 1 else picture)


def _patch_under(image_HWC: ImageHWC, matrix_23: np.ndarray, reduction: int) -> tuple[ImageHWC, np.ndarray]:
    """Return the reflected, reduced part of the source that holds the frame, and its corner (x, y) in source pixels."""
    reach = np.abs(matrix_23[:, :2]).sum(axis=1)
    margin = 2 * reduction
    low = np.floor(matrix_23[:, 2] - reach).astype(int) - margin
    high = np.ceil(matrix_23[:, 2] + reach).astype(int) + margin
    high += -(high - low) % reduction
    height, width = image_HWC.shape[:2]
    if low.min() >= 0 and high[0] <= width and high[1] <= height:
        patch = image_HWC[low[1] : high[1], low[0] : high[0]]
    else:
        rows, columns = _reflected(low[1], high[1], height), _reflected(low[0], high[0], width)
        patch = image_HWC[rows].take(columns, axis=1)
    if reduction > 1:
        patch = np.asarray(Image.fromarray(patch).reduce(reduction))
    return patch, low


def _reflected(start: int, stop: int, length: int) -> np.ndarray:
    """Return source indices for start..stop-1, mirrored at the edge pixels as often as needed."""
    period = max(1, 2 * (length - 1))
    folded = np.arange(start, stop) % period
    return np.minimum(folded, period - folded) if length > 1 else np.zeros(stop - start, dtype=int)


class LandmarkLocator(Protocol):
    """Find the face of each picture: landmarks (B, 5 or more, 2) in pixels of that picture, and a face score (B,) in 0..1."""

    def locate(self, images: list[ImageHWC]) -> tuple[Tensor, Tensor]: ...


class Aligner:
    """Find faces and cut them out at one size."""

    def __init__(self, locator: LandmarkLocator, *, size: int, min_face_score: float = MIN_FACE_SCORE) -> None:
        self.locator = locator
        self.size = size
        self.min_face_score = min_face_score

    def align(self, image_HWC: ImageHWC) -> ImageHWC:
        """Return the aligned face (size, size, 3); raise SampleFailure("align", ...) when there is none to align."""
        aligned = self.align_all([image_HWC])[0]
        if isinstance(aligned, SampleFailure):
            raise aligned
        return aligned

    def align_all(self, images: list[ImageHWC], known: Sequence[Tensor | None] = ()) -> list[ImageHWC | SampleFailure]:
        """Return, for each picture, the aligned face or why there is none.

        `known` are landmarks (5, 2) that need not be found, in the order of `LANDMARK_NAMES`; None, or nothing at all, has them located.
        """
        if not images:
            return []
        places = dict(enumerate(known))
        unknown = [row for row in range(len(images)) if places.get(row) is None]
        scores = dict.fromkeys(range(len(images)), 1.0)
        with torch.inference_mode():
            if unknown:
                landmarks_BK2, score_B = self.locator.locate([images[row] for row in unknown])
                places.update(zip(unknown, landmarks_BK2, strict=True))
                scores.update(zip(unknown, score_B.tolist(), strict=True))
            found = [place[:5].double().cpu() for row in sorted(places) if (place := places[row]) is not None]
            affines = frame_from_landmarks(torch.stack(found))
        return [self._cut(image, affine, scores[row]) for row, (image, affine) in enumerate(zip(images, affines, strict=True))]

    def _cut(self, image_HWC: ImageHWC, affine_23: Tensor, score: float) -> ImageHWC | SampleFailure:
        if not score >= self.min_face_score:
            return SampleFailure(STAGE, f"no face found: face score {score:.2f}, expected {self.min_face_score:.2f} or more")
        if not torch.isfinite(affine_23).all():
            return SampleFailure(STAGE, "no face found: the eyes and the mouth were located at the same point")
        width = 2.0 * float(affine_23[:, 0].norm())
        if width < MIN_FACE_PIXELS:
            return SampleFailure(
                STAGE, f"the face is too small: its frame is {width:.1f} pixels wide, expected {MIN_FACE_PIXELS:.0f} or more"
            )
        if width > MAX_FRAME_RATIO * max(image_HWC.shape[:2]):
            return SampleFailure(STAGE, f"no face found: its frame would be {width:.0f} pixels wide, far beyond the picture")
        return crop(image_HWC, affine_23, self.size)


class CentreSquare:
    """Cut the centred square out of pictures, whatever they show, at one size; like faces, smaller ones are enlarged."""

    def __init__(self, *, size: int) -> None:
        self.size = size

    def align_all(self, images: list[ImageHWC], known: Sequence[Tensor | None] = ()) -> list[ImageHWC | SampleFailure]:
        """Return the square of each picture; landmarks that are `known` do not matter."""
        return [fit_square(image, self.size) for image in images]
