"""Raw samples of the portraits world: an unaligned JPEG, its truth and its caption."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image

from portraits.captions import captions
from portraits.landmarks import LANDMARK_NAMES
from portraits.parameters import ATTRIBUTE_NAMES, IDENTITY_NAMES, STYLE_NAMES, Parameters, sample_parameters
from portraits.raw import picture_landmarks, random_frames
from portraits.render import render

SIDES_PX = (160, 192, 224, 256)
QUALITY = (62, 95)


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """One sample as it goes into a shard: `members` by extension."""

    key: str
    members: dict[str, bytes]


def raw_samples(count: int, *, seed: int, first: int = 0, style: str = "photo") -> Iterator[RawSample]:
    """Yield `count` samples with keys from number `first` on; the same arguments give the same bytes."""
    generator = torch.Generator().manual_seed(seed)
    p = sample_parameters(count, generator).with_style(style)
    yield from photographed(p, generator=generator, rng=random.Random(seed), first=first)


def photographed(p: Parameters, *, generator: torch.Generator, rng: random.Random, first: int = 0) -> Iterator[RawSample]:
    """Yield a sample of each of the people `p`: `generator` draws the frames, `rng` sizes, words and JPEG qualities."""
    frame = random_frames(p, generator=generator)
    sides = [rng.choice(SIDES_PX) for _ in range(len(p))]
    texts = captions(p, rng=rng)
    points = picture_landmarks(p, frame)
    for i in range(len(p)):
        one = slice(i, i + 1)
        image = render(p.slice(one), frame[one], size=sides[i])[0]
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        jpeg = io.BytesIO()
        Image.fromarray(pixels).save(jpeg, "JPEG", quality=rng.randint(*QUALITY))
        truth = _truth(p.slice(one)) | {"landmarks": _in_pixels(points[i], sides[i]), "caption": texts[i].text}
        members = {"jpg": jpeg.getvalue(), "json": json.dumps(truth).encode(), "txt": texts[i].text.encode()}
        yield RawSample(key=f"{first + i:06d}", members=members)


def _truth(p: Parameters) -> dict[str, object]:
    holds, who = p.attributes()[0].tolist(), p.columns(IDENTITY_NAMES)[0].tolist()
    return {
        "style": STYLE_NAMES[int(p.style[0])],
        "attributes": dict(zip(ATTRIBUTE_NAMES, holds, strict=True)),
        "identity": {name: round(value, 4) for name, value in zip(IDENTITY_NAMES, who, strict=True)},
    }


def _in_pixels(points_K2: torch.Tensor, side: int) -> dict[str, list[float]]:
    pixels = ((points_K2 + 1) * (side / 2)).tolist()
    return {name: [round(x, 2), round(y, 2)] for name, (x, y) in zip(LANDMARK_NAMES, pixels, strict=True)}
