"""What an editor is asked in training beside its instructions' own texts: the same in other words, and two attributes at once.

The words are those of the portraits' captions (portraits/captions.py), except `UNSEEN`: with these it is measured whether an editor follows
wordings that it was not trained on (configs/instructions/unseen_wordings.yaml).

Shape legend: K requests, V wordings, E embedding.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from models.clip import ClipModel
from models.instruction import Instruction
from portraits import ATTRIBUTE_NAMES
from portraits.captions import PEOPLE, STYLE_PHRASES, describe
from portraits.parameters import ATTRIBUTE_GROUPS
from training.edits import STYLE_PREFIX

WORDINGS = 24
"""Ways to say a request, its own text the first of them."""
UNSEEN: tuple[str, ...] = (
    "happy expression", "sadness", "astonished", "angry look", "spectacles", "shades", "full beard", "golden hair", "ginger hair",
    "elderly", "beanie", "chubby chin", "zombie version", "pencil drawing", "bronze sculpture", "flat cartoon",
)  # fmt: skip
"""Words that no training of an editor says; CLIP knows them."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """The instructions, then their pairs, with the raw embeddings of every wording (K, V, E) and of the sources (K, E)."""

    instructions: tuple[Instruction, ...]
    singles: int
    targets_KVE: Tensor
    sources_KE: Tensor

    def weights(self, difficulty_K: Tensor, *, pairs: float) -> Tensor:
        """Return how often each request is drawn: by difficulty among its kind, pairs in their share of all."""
        weights = difficulty_K.clone()
        for part, share in ((slice(0, self.singles), 1 - pairs), (slice(self.singles, None), pairs)):
            weights[part] *= share / weights[part].sum().clamp_min(1e-6)
        return weights


def requests(instructions: Sequence[Instruction], clip: ClipModel, *, wordings: bool, pairs: bool, seed: int) -> Requests:
    """Return what a training asks for; without `wordings` an instruction has its own text alone."""
    rng = random.Random(seed)
    asked = (*instructions, *(paired(instructions, rng) if pairs else ()))
    targets = list[Tensor]()
    for place, instruction in enumerate(asked):
        many = wordings or place >= len(instructions)
        texts = [instruction.target, *(said(instruction, rng) for _ in range(WORDINGS - 1))] if many else [instruction.target]
        embedded = clip.embed_texts(texts)
        targets.append(embedded if many else embedded.expand(WORDINGS, -1))
    return Requests(
        instructions=asked, singles=len(instructions), targets_KVE=torch.stack(targets),
        sources_KE=clip.embed_texts([instruction.source for instruction in asked]),
    )  # fmt: skip


def paired(instructions: Sequence[Instruction], rng: random.Random) -> list[Instruction]:
    """Return every two attributes that can be seen together as one instruction."""
    found = list[Instruction]()
    for one, other in combinations([i for i in instructions if _attributes(i)], 2):
        if _together(_attributes(one), _attributes(other)):
            name, expects = f"{one.name}_{other.name}", {**one.expects, **other.expects}
            both = Instruction(name=name, source=one.source, target=one.target, expects=expects)
            found.append(replace(both, target=said(both, rng)))
    return found


def said(instruction: Instruction, rng: random.Random) -> str:
    """Return what an instruction expects in words of the captions; its own target where captions have none."""
    style = next((name.removeprefix(STYLE_PREFIX) for name in instruction.expects if name.startswith(STYLE_PREFIX)), None)
    attributes = _attributes(instruction)
    if style not in STYLE_PHRASES and not attributes:
        return instruction.target
    while True:
        if style:
            text = f"{rng.choice(STYLE_PHRASES[style])} of {rng.choice(PEOPLE)}"
        else:
            text = describe(rng.sample(attributes, len(attributes)), rng)
        if not unseen(text):
            return text


def unseen(text: str) -> bool:
    """Return whether a text says what no training says."""
    return any(f" {words} " in f" {text} " for words in UNSEEN)


def _attributes(instruction: Instruction) -> list[str]:
    """Return the attributes that an instruction wants seen; none for a style, or where one has to go."""
    wanted = sorted(instruction.expects)
    return wanted if all(name in ATTRIBUTE_NAMES and instruction.expects[name] for name in wanted) else []


def _together(some: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether a portrait can show both: at most one of a group, and no hair colour under a hat."""
    both = [*some, *others]
    alone = [group for group in ATTRIBUTE_GROUPS.values() if sum(name in group for name in both) > 1]
    return not alone and not ("hat" in both and any(name.startswith("hair_") for name in both)) and not set(some) & set(others)
