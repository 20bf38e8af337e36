"""Members of samples: pictures that say where they come from, captions and labels as the input brings them."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from augmentation.members import as_json, caption_of, labels_in, png, was_made
from pipeline.sample import Sample

KNOWN = ("smile", "hat")


def sample(**members: bytes) -> Sample:
    return Sample(key="0", shard="a", index=0, members=dict(members), image_ext="jpg")


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_picture_says_itself_whether_and_how_it_was_made(synthetic: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    origin = {"synthetic": synthetic, "source": {"key": "Zo\u00eb", "index": 3}}
    data = png(pixels, origin)
    with Image.open(io.BytesIO(data)) as picture:
        assert np.array_equal(np.array(picture), pixels)
        text = picture.text  # type: ignore[attr-defined]
    assert text["synthetic"] == str(synthetic).lower() and json.loads(text["hyperedit"]) == origin
    assert png(pixels, dict(reversed(origin.items()))) == data


def test_equal_contents_are_equal_bytes() -> None:
    assert as_json({"b": 1, "a": "\u00eb"}) == as_json({"a": "\u00eb", "b": 1}) and json.loads(as_json({"a": "\u00eb"})) == {"a": "\u00eb"}


def test_a_caption_is_what_the_input_brings() -> None:
    assert caption_of(sample(txt=b" a face\n")) == "a face" and caption_of(sample(caption=b"a hat")) == "a hat"
    assert caption_of(sample(jpg=b"")) == "" and caption_of(sample(txt=b"caf\xe9")) == "caf\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("content", "where", "expected"),
    [
        ('{"attributes": {"smile": true, "hat": false}}', "json:attributes", {"smile": True, "hat": False}),
        ('{"a": {"b": {"smile": 1}}}', "json:a.b", {"smile": True}),
        ('{"smile": 0.51, "hat": 0.5}', "json:", {"smile": True, "hat": False}),
        ('{"smile": 0, "age": 41, "far": -1, "name": "Zoe", "hat": null}', "json:", {"smile": False}),
        ('{"attributes": ["smile"]}', "json:attributes", {"smile": True, "hat": False}),
        ('{"attributes": []}', "json:attributes", {"smile": False, "hat": False}),
        ('{"attributes": "smile"}', "json:attributes", None),
        ('{"other": {}}', "json:attributes", None),
        ('{"attributes": 3}', "json:attributes.smile", None),
        ("no json", "json:attributes", None),
        ("[" * 100_000, "json:attributes", None),
        ("{}", "cls:attributes", None),
    ],
)
def test_labels_are_read_where_the_recipe_says(content: str, where: str, expected: dict[str, bool] | None) -> None:
    assert labels_in(sample(json=content.encode()), where, known=KNOWN) == expected


@pytest.mark.parametrize(
    ("content", "made"),
    [(b'{"synthetic": true}', True), (b'{"synthetic": false}', False), (b'{"synthetic": "true"}', False), (b"[]", False), (b"\xff", False)],
)
def test_what_was_made_says_so(content: bytes, made: bool) -> None:
    assert was_made(sample(json=content)) == made and not was_made(sample(jpg=b""))
