"""The members of a sample of an augmented dataset: picture with its origin inside, caption, and a JSON file of labels and provenance."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from PIL.PngImagePlugin import PngInfo

from pipeline import batch
from pipeline.images import ImageHWC
from pipeline.sample import Sample

CAPTION_EXTS = ("txt", "caption")
JSON_EXT, CAPTION_EXT, PICTURE_EXT = "json", "txt", "png"
ORIGIN = "hyperedit"
"""Name of the text in a PNG file that holds its origin, as JSON."""


def png(picture: ImageHWC, origin: Mapping[str, object]) -> bytes:
    """Return a PNG file whose metadata say whether, and how, the picture was made: text `synthetic`, and `hyperedit` as JSON."""
    text = PngInfo()
    text.add_text("synthetic", str(bool(origin["synthetic"])).lower())
    text.add_itxt(ORIGIN, json.dumps(origin, ensure_ascii=False, sort_keys=True))
    return batch.png(picture, text)


def as_json(content: Mapping[str, object]) -> bytes:
    """Return a JSON member; equal contents give equal bytes."""
    return (json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def caption_ext(sample: Sample) -> str | None:
    """Return the member that holds a sample's caption; None where there is none."""
    return next((ext for ext in CAPTION_EXTS if ext in sample.members), None)


def caption_of(sample: Sample) -> str:
    """Return the caption that a sample brings, empty where it brings none."""
    ext = caption_ext(sample)
    return "" if ext is None else sample.members[ext].decode("utf-8", "replace").strip()


def was_made(sample: Sample) -> bool:
    """Say whether the input itself says that a sample is synthetic, as this job's own outputs do."""
    try:
        found = json.loads(sample.members[JSON_EXT])
        return isinstance(found, dict) and found.get("synthetic") is True
    except (KeyError, ValueError, RecursionError):
        return False


def labels_in(sample: Sample, where: str, *, known: Collection[str]) -> dict[str, bool] | None:
    """Return the labels that a sample brings in a JSON member, such as "json:attributes"; None where there are none.

    A mapping of names to truth values or numbers from 0 to 1 (above one half holds; others are no labels), or a list of the names that
    hold, of those that are `known`.
    """
    member, _, path = where.partition(":")
    try:
        found = json.loads(sample.members[member])
        for step in filter(None, path.split(".")):
            found = found[step]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    if isinstance(found, list):
        return dict.fromkeys(known, False) | {str(name): True for name in found}
    if not isinstance(found, dict):
        return None
    return {str(name): value > 0.5 for name, value in found.items() if isinstance(value, (bool, int, float)) and 0 <= value <= 1}
