"""Captions of portraits: a template, the style's words, and a random choice of what can be seen.

The wording is what the pack's CLIP learns, so every attribute has several ways to be said; `PHRASES` is also where instructions
(configs/instructions) take their words from. A caption knows what it claims, so that training can tell which other pictures of a
batch it is true of as well.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from portraits.parameters import ATTRIBUTE_GROUPS, ATTRIBUTE_NAMES, STYLE_NAMES, Parameters

TEMPLATES: tuple[str, ...] = (
    "{}", "a picture of {}", "an image of {}", "the picture of {}", "a close-up picture of {}", "a good picture of {}",
    "a small image of {}", "a bright picture of {}", "a cropped image of {}", "one picture of {}", "my picture of {}",
    "there is {} in the picture",
    "a picture showing {}", "look at this picture of {}",
)  # fmt: skip
"""Caption templates that say nothing about the style; `{}` is a person described."""

PEOPLE: tuple[str, ...] = ("a face", "a person", "a portrait", "someone", "a human face", "a head")

STYLE_PHRASES: Mapping[str, tuple[str, ...]] = {
    "photo": ("a photo", "a photograph", "a natural photo"),
    "sketch": ("a pencil sketch", "a sketch", "a pencil drawing"),
    "cartoon": ("a cartoon", "a comic drawing", "a flat cartoon"),
    "mosaic": ("a mosaic", "a tile mosaic", "a mosaic of tiles"),
    "zombie": ("a zombie photo", "a zombie version", "a zombie"),
    "oil": ("an oil painting", "a painting in oil", "an oil canvas"),
    "bronze": ("a bronze statue", "a bronze bust", "a bronze sculpture"),
}
"""What comes before "of a face" for each style."""

PHRASES: Mapping[str, tuple[str, ...]] = {
    "neutral": ("a neutral expression", "a calm expression", "no smile"),
    "smile": ("a smile", "a happy smile", "a smiling mouth", "a happy expression"),
    "sad": ("a sad expression", "a sad mouth", "sadness"),
    "surprised": ("a surprised expression", "an open mouth in surprise", "surprise"),
    "angry": ("an angry expression", "anger", "an angry look"),
    "no_eyewear": ("no glasses", "bare eyes"),
    "glasses": ("glasses", "eyeglasses", "spectacles"),
    "sunglasses": ("sunglasses", "dark sunglasses", "shades"),
    "hair_black": ("black hair", "dark black hair"),
    "hair_brown": ("brown hair", "brunette hair"),
    "hair_blond": ("blond hair", "blonde hair", "golden hair"),
    "hair_red": ("red hair", "ginger hair"),
    "hair_grey": ("grey hair", "gray hair", "white hair"),
    "beard": ("a beard", "a full beard"),
    "mustache": ("a mustache", "a moustache"),
    "lipstick": ("lipstick", "red lipstick", "painted lips"),
    "blush": ("rosy cheeks", "blush", "pink cheeks"),
    "bangs": ("bangs", "a fringe"),
    "long_hair": ("long hair", "hair down to the shoulders"),
    "curly_hair": ("curly hair", "curls"),
    "bald": ("a bald head", "no hair", "baldness"),
    "hat": ("a hat", "a knitted hat", "a beanie"),
    "earrings": ("earrings", "golden earrings"),
    "old": ("wrinkles", "old skin", "an old face"),
    "double_chin": ("a double chin", "a chubby chin"),
    "eyes_closed": ("closed eyes", "eyes shut"),
}
"""What follows "with" for each attribute."""

_ADJECTIVES: Mapping[str, tuple[str, ...]] = {
    "smile": ("smiling", "happy"), "sad": ("sad",), "surprised": ("surprised", "astonished"), "angry": ("angry",),
    "old": ("old", "elderly"),
    "bald": ("bald",), "beard": ("bearded",), "hair_blond": ("blond",), "hair_red": ("red-haired",), "neutral": ("serious",),
}  # fmt: skip
_NOUNS: tuple[str, ...] = ("face", "person", "human face", "head")
_OBVIOUS: frozenset[str] = frozenset({"neutral", "no_eyewear"})
_CLAIMS: tuple[str, ...] = ATTRIBUTE_NAMES + STYLE_NAMES


@dataclass(frozen=True, kw_only=True)
class Caption:
    """Hold a caption and the attribute and style names that it claims."""

    text: str
    claims: frozenset[str]


def captions(p: Parameters, *, rng: random.Random, must: Sequence[str | None] | None = None) -> list[Caption]:
    """Write one caption per portrait; `must` names, per portrait, an attribute or style that the caption has to mention if it holds."""
    holds = p.attributes().tolist()
    styles = p.style.tolist()
    result = []
    for i, (row, style) in enumerate(zip(holds, styles, strict=True)):
        present = {name for name, on in zip(ATTRIBUTE_NAMES, row, strict=True) if on}
        result.append(_one(present, STYLE_NAMES[style], rng, must[i] if must else None))
    return result


def true_of(claims: Sequence[Caption], p: Parameters) -> Tensor:
    """Return which captions are true of which portraits, boolean (len(p), len(claims))."""
    style = torch.nn.functional.one_hot(p.style, len(STYLE_NAMES)).bool()
    holds = torch.cat([p.attributes(), style.to(p.values.device)], 1).float()
    wanted = torch.tensor([[name in c.claims for name in _CLAIMS] for c in claims], dtype=torch.float32)
    return holds @ wanted.T > wanted.sum(1) - 0.5


def _one(present: set[str], style: str, rng: random.Random, must: str | None) -> Caption:
    visible = _visible(present)
    unusual = [name for name in visible if name not in _OBVIOUS]
    pool = visible if rng.random() < 0.25 else unusual
    chosen = rng.sample(pool, min(len(pool), rng.choice((0, 1, 1, 1, 2, 2, 3))))
    if must in visible and must not in chosen:
        chosen.append(must)
    rng.shuffle(chosen)
    text, claims = describe(chosen, rng), set(chosen)
    if must == style or rng.random() < (0.35 if style == "photo" else 0.75):
        text, claims = f"{rng.choice(STYLE_PHRASES[style])} of {text}", claims | {style}
        if rng.random() < 0.5:
            return Caption(text=text, claims=frozenset(claims))
    return Caption(text=rng.choice(TEMPLATES).format(text), claims=frozenset(claims))


def describe(names: Sequence[str], rng: random.Random) -> str:
    """Say a person with these attributes: "a smiling face with glasses and black hair"."""
    with_ = list(names)
    who = rng.choice(PEOPLE)
    spoken = [name for name in with_ if name in _ADJECTIVES]
    if spoken and rng.random() < 0.5:
        first = spoken[0]
        with_.remove(first)
        adjective = rng.choice(_ADJECTIVES[first])
        article = "an" if adjective[0] in "aeiou" else "a"
        who = f"{article} {adjective} {rng.choice(_NOUNS)}"
    phrases = [rng.choice(PHRASES[name]) for name in with_]
    if not phrases:
        return who
    return f"{who} with " + (phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1])


def _visible(present: set[str]) -> list[str]:
    hidden = set(ATTRIBUTE_GROUPS["hair_colour"]) if "bald" in present and "beard" not in present else set()
    return sorted(present - hidden)
