"""Landmarks that no network of the pack finds: those that a sample brings, and those of a library for photos (extra `faces`).

Five landmarks are the eyes, the tip of the nose and the corners of the mouth, left and right as seen in the picture, in the order of
`align.LANDMARK_NAMES`; 68 are those of dlib (iBUG 300-W). Both come in pixels whose first centre is (0, 0), which is how dlib counts.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.align import STAGE, LandmarkLocator
from pipeline.images import FORMATS, ImageHWC
from pipeline.sample import Sample, SampleFailure

MEMBER, FIELD = "json", "landmarks"
FIVE, ALL = 5, 68
EYES, NOSE_TIP, MOUTH = (slice(36, 42), slice(42, 48)), 30, (48, 54)
CENTRE = 0.5
"""Where the centre of a pixel lies in continuous coordinates."""
Points = NDArray[np.float64]


class MissingLibraryError(RuntimeError):
    """The library of the extra `faces` is not installed; the message says what to do."""


def five_of(points_K2: Points) -> Points:
    """Return the five landmarks of 5 or 68, as FFHQ's script takes them: eyes are the mean of their outline."""
    if len(points_K2) == FIVE:
        return points_K2
    eyes = [points_K2[outline].mean(axis=0) for outline in EYES]
    return np.stack([*eyes, points_K2[NOSE_TIP], *(points_K2[corner] for corner in MOUTH)])


def supplied(sample: Sample, image_HWC: ImageHWC) -> Tensor | None:
    """Return the five landmarks (5, 2) that a sample brings, in continuous pixels of its decoded picture.

    They are the list `landmarks` of 5 or 68 pairs in KEY.json, in pixels of the upright picture as it is stored; anything else gives None.
    Raises SampleFailure("align", ...) where a pair is not two finite numbers.
    """
    found = _listed(sample.members.get(MEMBER, b""))
    if found is None:
        return None
    try:
        points = np.array(found, dtype=np.float64)
    except (ValueError, TypeError):
        points = np.empty(0)
    if points.shape != (len(found), 2) or not np.isfinite(points).all():
        raise SampleFailure(STAGE, f"{sample.key}.{MEMBER}: {FIELD}: expected {len(found)} pairs of finite numbers, found {found!r:.80}")
    with Image.open(io.BytesIO(sample.image), formats=FORMATS) as stored:
        reduced = max(image_HWC.shape[:2]) / max(stored.size)
    return torch.from_numpy((five_of(points) + CENTRE) * reduced)


def _listed(member: bytes) -> list[object] | None:
    if FIELD.encode() not in member:
        return None
    try:
        content = json.loads(member)
    except (ValueError, RecursionError):
        return None
    found = content.get(FIELD) if isinstance(content, dict) else None
    return found if isinstance(found, list) and len(found) in (FIVE, ALL) else None


class _Library(Protocol):
    """What is used of `face_alignment.FaceAlignment`."""

    def get_landmarks_from_image(
        self, image_or_path: ImageHWC, *, return_bboxes: bool
    ) -> tuple[Sequence[NDArray[np.float32]] | None, object, Sequence[NDArray[np.float32]] | None]: ...


class FaceLibrary(LandmarkLocator):
    """Find the largest face of photos with `face_alignment` (Bulat and Tzimiropoulos 2017), one picture at a time.

    The library is loaded, and fetches its weights, when the first picture comes; MissingLibraryError where it is not installed.
    """

    def __init__(self, *, device: str = "cpu") -> None:
        self._device = device
        self._library: _Library | None = None

    def locate(self, images: list[ImageHWC]) -> tuple[Tensor, Tensor]:
        """Return five landmarks (B, 5, 2) in continuous pixels and face scores (B,); a score of 0 where there is no face."""
        found = [self._locate(image) for image in images]
        return torch.from_numpy(np.stack([points for points, _ in found])), torch.tensor([score for _, score in found])

    def _locate(self, image_HWC: ImageHWC) -> tuple[Points, float]:
        self._library = self._library or _load(self._device)
        with warnings.catch_warnings(action="ignore"):  # it warns where there is no face
            faces, _, boxes = self._library.get_landmarks_from_image(image_HWC, return_bboxes=True)
        if not faces or boxes is None or len(boxes) == 0:
            return np.full((FIVE, 2), math.nan), 0.0
        largest = max(range(len(faces)), key=lambda face: _area(boxes[face]))
        box = boxes[largest]
        return five_of(np.asarray(faces[largest], dtype=np.float64)) + CENTRE, float(box[4]) if len(box) > 4 else 1.0


def _area(box: NDArray[np.float32]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _load(device: str) -> _Library:
    try:
        import face_alignment
    except ImportError as error:
        raise MissingLibraryError(
            "this pack has no landmark network and the sample brings no landmarks: install the extra `faces` (pip install "
            f"'.[faces]'), put 5 or 68 landmarks into KEY.json, or, where pictures show no faces, say --align centre: {error}"
        ) from error
    library: _Library = face_alignment.FaceAlignment(face_alignment.LandmarksType.TWO_D, device=device, flip_input=False, compile=False)
    return library
