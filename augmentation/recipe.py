"""A recipe: which edits a dataset gets, how many of them, what they have to pass, and what else the new dataset holds. No torch.

docs/augmentation.md describes the file; augmentation/recipe_file.py reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from augmentation.edits import Edit
from models.instruction import Instruction

Originals = Literal["aligned", "inverted", "untouched", "none"]
ORIGINALS: tuple[Originals, ...] = ("aligned", "inverted", "untouched", "none")
CLASSIFIER = "classifier"
SHARES_TOLERANCE = 1e-6
LEAST_SUCCESS = 0.5
"""Certainty below which a classifier may say the opposite."""


class RecipeError(ValueError):
    """A recipe cannot be followed; the message says where, what was found and what would work."""


@dataclass(frozen=True, kw_only=True, order=True)
class Group:
    """People who have, or lack, certain attributes."""

    holds: tuple[tuple[str, bool], ...]

    def __str__(self) -> str:
        return ", ".join(name if wanted else f"no {name}" for name, wanted in self.holds)

    def admits(self, labels: Mapping[str, bool]) -> bool:
        """Say whether somebody with these labels is one of them."""
        return all(labels.get(name, False) == wanted for name, wanted in self.holds)


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Which share of the dataset each group of people shall have; `size` is the samples of all, None as many as keep all originals."""

    shares: tuple[tuple[Group, float], ...]
    size: int | None = None

    @property
    def attributes(self) -> tuple[str, ...]:
        """Return what the groups differ in."""
        return tuple(name for name, _ in self.shares[0][0].holds)

    def group_of(self, labels: Mapping[str, bool]) -> Group:
        """Return the group of somebody."""
        return next(group for group, _ in self.shares if group.admits(labels))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Pictures that the generator draws by itself: `count` of them, from the seeds `seed` on."""

    count: int
    truncation: float = 0.7
    seed: int = 0
    shard_size: int = 500
    realism: float | None = 1.0
    """The gate of this name; no other concerns them."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe. One of `per_sample`, `per_edit` and `balance` says how many edits are wanted."""

    edits: tuple[Edit, ...] = ()
    per_sample: int = 0
    per_edit: Mapping[str, int] = field(default_factory=dict)
    balance: Balance | None = None
    attempts: int = 3
    """Most edits that are tried of one sample."""
    originals: Originals = "aligned"
    labels: str = CLASSIFIER
    """Where the labels of originals come from: the pack's classifier, or a member of the input and a place in it ("json:attributes")."""
    drawn: Drawn | None = None
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Phrases that captions say attributes with, by attribute: they leave a caption when an edit makes them untrue."""
    carry: tuple[str, ...] = ()
    """Members of the input that edits take along as they are."""
    keep_rejected: int = 8
    """Pictures of rejected edits to keep, per edit and shard."""
    seed: int = 0

    @property
    def planned(self) -> bool:
        """Say whether the labels of all originals have to be known before the first edit."""
        return self.balance is not None or bool(self.per_edit)

    @property
    def asks_realism(self) -> bool:
        """Say whether any gate looks at realism."""
        drawn = self.drawn is not None and self.drawn.realism is not None
        return drawn or any(edit.gates.realism is not None for edit in self.edits)

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """Return every instruction that an edit uses, each once."""
        found = {one.name: one for edit in self.edits for one in edit.instructions}
        return tuple(found.values())

    def edit(self, name: str) -> Edit:
        """Return an edit by its name."""
        return next(edit for edit in self.edits if edit.name == name)

    def content(self) -> dict[str, object]:
        """Return what decides on the bytes that are written, in the types of JSON."""
        balance = self.balance and {"shares": [[str(group), share] for group, share in self.balance.shares], "size": self.balance.size}
        return {
            "edits": [edit.content() for edit in self.edits], "per_sample": self.per_sample, "per_edit": dict(self.per_edit),
            "balance": balance, "attempts": self.attempts, "originals": self.originals, "labels": self.labels,
            "drawn": self.drawn and vars(self.drawn), "words": {name: list(phrases) for name, phrases in self.words.items()},
            "carry": list(self.carry), "keep_rejected": self.keep_rejected, "seed": self.seed,
        }  # fmt: skip


def groups_of(attributes: Sequence[str]) -> tuple[Group, ...]:
    """Return the groups of all combinations of having and lacking these, those that have most first."""
    return tuple(Group(holds=tuple(zip(attributes, holds, strict=True))) for holds in product((True, False), repeat=len(attributes)))


def check(recipe: Recipe) -> None:
    """Raise RecipeError where the parts of a recipe contradict each other."""
    targets = [bool(recipe.per_sample), bool(recipe.per_edit), recipe.balance is not None]
    if recipe.edits and sum(targets) != 1:
        found = "nothing" if not any(targets) else "several"
        raise RecipeError(
            f"accepted: says {found}; say one of per_sample: 2, per_edit: {{smile: 500}} and balance: {{attributes: [smile]}}"
        )
    if not recipe.edits and (any(targets) or recipe.drawn is None):
        raise RecipeError("edits: none given; list some ('- instruction: smile'), or ask for drawn samples (drawn: {count: 1000})")
    if recipe.per_sample > len(recipe.edits):
        found = f"{recipe.per_sample} edits of every sample, but the recipe has {len(recipe.edits)}"
        raise RecipeError(f"accepted.per_sample: {found}, and each is tried once; lower it, or add edits")
    if recipe.per_sample > recipe.attempts:
        raise RecipeError(f"attempts: {recipe.attempts} cannot come to accepted.per_sample {recipe.per_sample}; raise it")
    _check_names(recipe)
    for edit in recipe.edits:
        _check_edit(edit)
    if recipe.balance is not None:
        _check_balance(recipe, recipe.balance)


def _check_names(recipe: Recipe) -> None:
    names = [edit.name for edit in recipe.edits]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"edits: two are called {twice!r}; give one another `name`")


def _check_edit(edit: Edit) -> None:
    first, *others = edit.instructions
    for other in others:
        clash = [name for name, wanted in other.expects.items() if first.expects.get(name, wanted) != wanted]
        if clash:
            raise RecipeError(f"edit {edit.name!r}: {first.name} and {other.name} expect opposites of {clash[0]!r}; combine others")
    needs = "strength: auto" if edit.strength.auto else "the gate `success`"
    if not edit.expects and (edit.strength.auto or edit.gates.success is not None):
        how = "add `expects`, such as {smile: true}, to its instruction in a YAML file"
        raise RecipeError(f"edit {edit.name!r}: {needs} needs to know what should be seen: {how}, or say gates: {{success: null}}")
    if edit.strength.auto and edit.gates.success is None:
        raise RecipeError(
            f"edit {edit.name!r}: strength: auto looks for what the gate `success` asks, which is null; give it a probability"
        )


def _check_balance(recipe: Recipe, balance: Balance) -> None:
    total = sum(share for _, share in balance.shares)
    if abs(total - 1) > SHARES_TOLERANCE:
        raise RecipeError(f"accepted.balance.shares: they add up to {total:g}, expected 1")
    for attribute in balance.attributes:
        if not any(attribute in edit.expects for edit in recipe.edits):
            raise RecipeError(
                f"accepted.balance: impossible, no edit of the recipe changes {attribute!r}; add one whose instruction expects "
                f"{{{attribute}: true}} or {{{attribute}: false}}"
            )
    if recipe.originals == "none" and balance.size is None:
        raise RecipeError("accepted.balance: with originals: none it needs a size; say how many samples there shall be, such as size: 1000")
    if recipe.drawn is not None:
        raise RecipeError(
            "drawn: drawn pictures would upset accepted.balance; draw them into an output of their own, by a recipe without edits"
        )
    for edit in recipe.edits:
        if edit.gates.success is None or edit.gates.success < LEAST_SUCCESS:
            how = f"say gates: {{success: {LEAST_SUCCESS:g}}} or more"
            raise RecipeError(f"edit {edit.name!r}: a balance needs to know that an edit shows what its group has; {how}")
