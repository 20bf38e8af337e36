"""Captions of edits: those of their sources, with what the edit added, and without what it made untrue. By rules, for English."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from augmentation.edits import Edit, shown_after, shown_before
from models.instruction import Instruction

GONE = "\0"
ARTICLES = frozenset({"a", "an", "the"})
CLEANED = (
    (rf"\b(with|wearing|in|and) {GONE} and ", r"\1 "),
    (rf"\b(with|wearing|in) {GONE}, (?!\w+ing\b)", r"\1 "),
    (rf", {GONE} and ", " and "),
    (rf"(^|\b(?:[Aa]n?|[Tt]he) ){GONE} and ", rf"\1{GONE} "),
    (rf"(, | and | with | wearing | in |^with ){GONE}", ""),
    (rf"\b([Aa])n? {GONE},? ?(?=[aeiou])", r"\1n "),
    (rf"\b([Aa])n? {GONE},? ?(?=\w)", r"\1 "),
    (rf"{GONE},? ?", ""),
    (r" {2,}", " "),
    (r"(?:(?:^| )(?:with|without|wearing|and|of|in|showing|an?|the))+$", ""),
)
"""Patterns and what takes their place, in order: a list without one of its parts, an article that fits again, no end in the air."""


def rewritten(caption: str, edit: Edit, untrue: Sequence[str]) -> str:
    """Return the caption of an edit: by its own template, or the source's without phrases that are `untrue` and with what was added."""
    if edit.caption:
        return edit.caption.replace("{caption}", caption)
    caption = without(caption, untrue)
    for instruction in edit.instructions:
        more = added(instruction)
        caption = ", ".join(filter(None, (caption, more))) if caption else shown_after(instruction)
    return caption


def without(caption: str, phrases: Sequence[str]) -> str:
    """Return a caption without some phrases: "a happy face with glasses and a hat" without "glasses" is "a happy face with a hat"."""
    for phrase in sorted(phrases, key=len, reverse=True):
        caption = re.sub(rf"\b{re.escape(phrase)}(?!\w)", GONE, caption, flags=re.IGNORECASE)
    if GONE in caption:
        for pattern, instead in CLEANED:
            caption = re.sub(pattern, instead, caption)
    return caption.strip(" ,")


def added(instruction: Instruction) -> str:
    """Return what there is after an instruction beyond what was before, empty where that is nothing.

    "a face" to "a smiling face" adds "smiling", to "a face with glasses" "with glasses", and the reverse of that nothing.
    """
    before, after = shown_before(instruction).split(), shown_after(instruction).split()
    if after[: len(before)] == before:
        return " ".join(after[len(before) :])
    left, more = [word for word in before if word not in ARTICLES], list[str]()
    words = iter(left.copy())
    if all(word in words for word in after if word not in ARTICLES):  # all was said before, in this order
        return ""
    for word in after:
        if left and word == left[0]:
            left.pop(0)
        elif word not in ARTICLES or more:
            more.append(word)
    return shown_after(instruction) if left or more[-1] in ARTICLES else " ".join(more)


def untrue(
    words: Mapping[str, Sequence[str]], before: Mapping[str, bool], after: Mapping[str, bool], *, expects: Mapping[str, bool]
) -> list[str]:  # fmt: skip
    """Return the phrases of attributes that a classifier saw before and does not see any more, and of those that an edit was to remove."""
    gone = {name for name, holds in before.items() if holds and not after.get(name, True)}
    gone |= {name for name, wanted in expects.items() if not wanted}
    return [phrase for name, phrases in words.items() if name in gone for phrase in phrases]


def described(labels: Mapping[str, bool]) -> str:
    """Return a caption for a picture that has none: what its labels say."""
    return ", ".join(name.replace("_", " ") for name, holds in labels.items() if holds)
