"""Captions of edits: what the edit added is said, what it made untrue is not, and the rest stays as it was."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from augmentation.captions import added, described, rewritten, untrue, without
from augmentation.edits import Edit
from models.instruction import Instruction
from portraits.captions import _ADJECTIVES, PHRASES, describe
from portraits.parameters import ATTRIBUTE_GROUPS
from tests.augmentation.small_recipe import GLASSES, HAT, NO_GLASSES, SMILE, edit_of

WORDS: Mapping[str, tuple[str, ...]] = {name: (*phrases, *_ADJECTIVES.get(name, ())) for name, phrases in PHRASES.items()}
EXCLUSIVE = tuple(ATTRIBUTE_GROUPS.values())


def instruction(source: str, target: str, strength: float = 1.0) -> Instruction:
    return Instruction(name="any", source=source, target=target, strength=strength)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("a face", "a smiling face", "smiling"),
        ("a face", "an old face", "old"),
        ("a face", "the old and tired face", "old and tired"),
        ("a face", "a face with a hat", "with a hat"),
        ("a face", "a face with blond hair", "with blond hair"),
        ("a face with a hat", "a face", ""),
        ("the face", "a face", ""),
        ("a photo of a face", "a pencil sketch of a face", "a pencil sketch of a face"),
        ("a cat", "a dog", "a dog"),
        ("a face", "a smiling", "a smiling"),
    ],
)
def test_what_an_instruction_adds(source: str, target: str, expected: str) -> None:
    assert added(instruction(source, target)) == expected
    assert added(instruction(target, source, -0.7)) == expected  # a negative strength turns it round


@pytest.mark.parametrize(
    ("caption", "phrases", "expected"),
    [
        ("a face with glasses", ["glasses"], "a face"),
        ("a happy face with glasses and a hat", ["glasses"], "a happy face with a hat"),
        ("a face with a hat and glasses", ["glasses"], "a face with a hat"),
        ("a face with a hat, glasses and black hair", ["glasses"], "a face with a hat and black hair"),
        ("a face with glasses, a hat and black hair", ["glasses"], "a face with a hat and black hair"),
        ("a face with a hat and glasses", ["glasses", "a hat"], "a face"),
        ("a face with a smile, a hat and glasses", ["glasses", "a hat"], "a face with a smile"),
        ("a face with a smile, a hat and glasses", ["a smile", "a hat", "glasses"], "a face"),
        ("a smiling face with a hat", ["smiling"], "a face with a hat"),
        ("an old face with a hat", ["old"], "a face with a hat"),
        ("a bearded old man", ["bearded"], "an old man"),
        ("a face with a happy smile", ["smile", "a happy smile"], "a face"),
        ("A face with GLASSES", ["glasses"], "A face"),
        ("glasses", ["glasses"], ""),
        ("with glasses and a hat", ["glasses"], "with a hat"),
        ("glasses, a hat", ["glasses"], "a hat"),
        ("a hat, glasses", ["glasses"], "a hat"),
        ("a picture of a face with glasses", ["glasses"], "a picture of a face"),
        ("a man wearing glasses", ["glasses"], "a man"),
        ("a man wearing glasses and a hat", ["glasses"], "a man wearing a hat"),
        ("a man in glasses, a hat and a coat", ["glasses"], "a man in a hat and a coat"),
        ("a face with glasses, smiling", ["glasses"], "a face, smiling"),
        ("a happy and old man", ["happy"], "an old man"),
        ("a happy, old man", ["happy"], "an old man"),
        ("A happy old man", ["happy"], "An old man"),
        ("someone bald", ["bald"], "someone"),
        ("an hour with a man in a hat", ["in a hat"], "an hour with a man"),
        ("there is a face with glasses in the picture", ["glasses"], "there is a face in the picture"),
        ("a face with sunglasses", ["glasses"], "a face with sunglasses"),
        ("a face with a beardless chin", ["beard"], "a face with a beardless chin"),
        ("a face (1+1) with a c++ shirt", ["(1+1)"], "a face (1+1) with a c++ shirt"),
        ("", ["glasses"], ""),
        ("a face", [], "a face"),
    ],
)
def test_phrases_leave_a_caption_and_the_rest_reads_well(caption: str, phrases: list[str], expected: str) -> None:
    assert without(caption, phrases) == expected


def pieces(caption: str) -> tuple[str, list[str]]:
    """Return who a caption of the portraits is about, and what it says that they have."""
    who, _, tail = caption.partition(" with ")
    return who, re.split(r", | and ", tail) if tail else []


@settings(deadline=None, max_examples=300)
@given(names=st.lists(st.sampled_from(sorted(PHRASES)), min_size=1, max_size=4, unique=True), seed=st.integers(0, 10**6))
def test_one_attribute_leaves_a_caption_of_the_portraits_and_nothing_else_does(names: list[str], seed: int) -> None:
    assume(all(len(set(names) & set(group)) < 2 for group in EXCLUSIVE))
    caption, gone = describe(names, random.Random(seed)), names[-1]
    who, said = pieces(caption)
    assume(who not in WORDS[gone])
    after, left = pieces(without(caption, WORDS[gone]))
    assert left == [one for one in said if one not in PHRASES[gone]]
    words = who.split()
    kept = [word for word in words if word not in _ADJECTIVES.get(gone, ())]
    assert after.split()[1:] == kept[1:] and after.split()[0] == (words[0] if kept == words else "a")


@given(caption=st.lists(st.sampled_from(["a", "an", "face", "with", "and", "of", "hat,", "old", "\N{SNOWMAN}"]), max_size=8).map(" ".join))
def test_a_caption_that_says_nothing_untrue_stays_as_it_is(caption: str) -> None:
    assert without(caption, ["glasses", "a smile"]) == caption.strip(" ,")


def test_untrue_is_what_held_and_does_not_any_more() -> None:
    words = {"smile": ["smiling", "happy"], "sad": ["sad"], "hat": ["a hat"]}
    changed = {"smile": False, "sad": True, "hat": True}
    assert untrue(words, {"smile": True, "hat": True}, changed, expects={"sad": True}) == ["smiling", "happy"]
    assert untrue(words, {"smile": False}, changed, expects={}) == [] and untrue({}, {"smile": True}, changed, expects={}) == []


def test_what_an_edit_was_to_remove_is_untrue_whatever_a_classifier_saw() -> None:
    words = {"smile": ["smiling"], "hat": ["a hat"]}
    assert untrue(words, {}, {}, expects={"hat": False, "smile": True}) == ["a hat"]
    assert untrue(words, {"smile": True}, {"smile": False}, expects={"hat": False}) == ["smiling", "a hat"]


@pytest.mark.parametrize(
    ("edit", "caption", "gone", "expected"),
    [
        (edit_of(SMILE), "a face with a hat", [], "a face with a hat, smiling"),
        (edit_of(GLASSES), "a face with sunglasses and a hat", ["sunglasses"], "a face with a hat, with glasses"),
        (edit_of(NO_GLASSES), "a face with glasses", ["glasses"], "a face"),
        (edit_of(SMILE, GLASSES), "a sad face", ["sad"], "a face, smiling, with glasses"),
        (edit_of(SMILE), "", [], "a smiling face"),
        (edit_of(GLASSES, HAT), "", [], "a face with glasses, with a hat"),
        (edit_of(SMILE), "sad", ["sad"], "a smiling face"),
        (Edit(name="x", instructions=(SMILE,), caption="{caption}, now happy"), "a sad face", ["sad"], "a sad face, now happy"),
        (Edit(name="x", instructions=(SMILE,), caption="happy"), "a sad face", [], "happy"),
    ],
)
def test_the_caption_of_an_edit(edit: Edit, caption: str, gone: list[str], expected: str) -> None:
    assert rewritten(caption, edit, gone) == expected


def test_a_picture_without_a_caption_is_described_by_its_labels() -> None:
    assert described({"smile": True, "hat": False, "hair_blond": True}) == "smile, hair blond" and described({}) == ""


def test_a_removal_adds_nothing_to_a_caption() -> None:
    removal = Instruction(name="no_smile", source="a face", target="a smiling face", strength=-1, expects={"smile": False})
    assert added(removal) == ""
    assert rewritten("a smiling face with glasses", Edit(name="no_smile", instructions=(removal,)), ["smiling"]) == "a face with glasses"
