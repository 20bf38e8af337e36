"""How many edits each shard shall contribute to a target, and by which samples: planned from the manifests, round by round.

A round asks of every shard what its samples should be able to give; what they did not give, since gates turned edits down, the next round
asks of samples that have not been tried for this target by this edit. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from augmentation.choice import rank, shows
from augmentation.edits import Edit
from augmentation.recipe import Balance, Group, Recipe, RecipeError
from augmentation.rows import EDIT, ORIGINAL, read_rows
from augmentation.wish import Cell, ShardPlan, read_plan
from pipeline.ledger import read_record
from pipeline.manifest import OK, QUARANTINED
from pipeline.shard_list import LATER_ROUND
from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """An original and its labels."""

    shard: str
    index: int
    key: str
    labels: frozenset[str]


T = TypeVar("T")
ROUNDING = 1e-9
"""What a product of shares may be off by."""
Chance = Callable[[Person, Edit], float]
"""Gives a number in [0, 1) that depends on who and what alone."""


@dataclass(kw_only=True)
class Target:
    """Edits wanted of one kind: of an edit, or into a group; `there` are originals that count already."""

    name: str
    wanted: int
    there: int = 0
    accepted: int = 0
    tried: set[tuple[str, int, str]] = field(default_factory=set)
    """Shard, index and edit of what was tried for it."""
    group: Group | None = None

    @property
    def missing(self) -> int:
        """Return how many are yet to be made."""
        return max(0, self.wanted - self.there - self.accepted)


@dataclass(frozen=True, kw_only=True)
class State:
    """All that the manifests say: originals, and targets with what was accepted for them so far."""

    people: Sequence[Person]
    targets: Sequence[Target]


def read_state(recipe: Recipe, storage: Storage, *, shards: Sequence[str], later: Sequence[str]) -> State:
    """Read originals from the manifests of `shards`, and edits from those of `later`. Raises RecipeError for a size that cannot be met."""
    labels: dict[frozenset[str], frozenset[str]] = {}
    people = [person for shard in shards for person in _people(storage, shard, labels)]
    targets = _targets(recipe, people)
    for shard in later:
        _take_in(storage, shard, {target.name: target for target in targets}, recipe)
    return State(people=people, targets=targets)


def _people(storage: Storage, shard: str, known: dict[frozenset[str], frozenset[str]]) -> Iterator[Person]:
    """Yield the originals of a shard; those with equal labels share them, since there may be millions."""
    for row in read_rows(storage, shard, ("index", "key", "labels", "kind", "status")):
        if row["kind"] == ORIGINAL and row["status"] == OK:
            found = row["labels"]
            assert isinstance(found, list)
            labels = known.setdefault(frozenset(found), frozenset(found))
            yield Person(shard=shard, index=int(str(row["index"])), key=str(row["key"]), labels=labels)


def _take_in(storage: Storage, shard: str, targets: Mapping[str, Target], recipe: Recipe) -> None:
    """Count what a shard of edits came to; what could not be tried, since a sample or its shard fails, counts as tried."""
    for row in read_rows(storage, shard, ("shard", "index", "instruction", "status", "target_group", "kind")):
        target, place = targets.get(str(row["target_group"])), (str(row["shard"]), int(str(row["index"])))
        if row["kind"] == EDIT and target is not None:
            target.accepted += row["status"] == OK
            target.tried.add((*place, str(row["instruction"])))
        elif row["status"] == QUARANTINED:
            for one in targets.values():
                one.tried |= {(*place, edit.name) for edit in recipe.edits}
    record = read_record(storage, shard)
    if record is not None and record.damage:
        source = shard.rpartition(LATER_ROUND)[0]
        for cell in read_plan(storage, shard).cells:
            targets[cell.target].tried |= {(source, index, name) for index, name in cell.tries}


def _targets(recipe: Recipe, people: Sequence[Person]) -> list[Target]:
    if recipe.balance is None:
        return [Target(name=name, wanted=count) for name, count in recipe.per_edit.items()]
    keep = recipe.originals != "none"
    there = dict.fromkeys((group for group, _ in recipe.balance.shares), 0)
    for person in people:
        there[recipe.balance.group_of(dict.fromkeys(person.labels, True))] += keep
    wanted = group_sizes(recipe.balance, there)
    return [Target(name=str(group), wanted=wanted[group], there=there[group], group=group) for group, _ in recipe.balance.shares]


def group_sizes(balance: Balance, there: Mapping[Group, int]) -> dict[Group, int]:
    """Return how many samples each group gets: its share of the size, or of the smallest size that keeps all originals.

    The sizes of a given total add up to it (largest remainders). Raises RecipeError where a group has more originals than its share.
    """
    for group, share in balance.shares:
        if there[group] and not share:
            raise RecipeError(
                f"accepted.balance: {there[group]} originals are {group}, whose share is 0; say originals: none, or give it one"
            )
    if balance.size is None:
        least = max((there[group] / share for group, share in balance.shares if share), default=0.0)
        return {group: max(there[group], math.ceil(least * share - ROUNDING)) for group, share in balance.shares}
    sizes = apportioned({group: balance.size * share for group, share in balance.shares}, balance.size)
    for group, size in sizes.items():
        if there[group] > size:
            enough = max(math.ceil(there[each] / share) for each, share in balance.shares if share)
            raise RecipeError(
                f"accepted.balance.size {balance.size}: {there[group]} originals are {group}, more than the {size} of its share; say "
                f"size: {enough} or more, leave size out, or say originals: none"
            )
    return sizes


def plan_round(recipe: Recipe, state: State, chance_of: Chance) -> dict[str, ShardPlan]:
    """Return what each shard shall try next, by shard; nothing where no target lacks anything that could still be tried."""
    cells: dict[str, list[Cell]] = {}
    for target in state.targets:
        if not target.missing:
            continue
        tries = _tries(recipe, state, target, chance_of=chance_of)
        for shard, quota in quotas(target.missing, {shard: len(found) for shard, found in tries.items()}).items():
            if quota:
                also = {} if target.group is None else dict(target.group.holds)
                cells.setdefault(shard, []).append(Cell(target=target.name, quota=quota, also=also, tries=tuple(tries[shard])))
    return {shard: ShardPlan(cells=tuple(found)) for shard, found in sorted(cells.items())}


def _tries(recipe: Recipe, state: State, target: Target, *, chance_of: Chance) -> dict[str, list[tuple[int, str]]]:
    """Return per shard the samples that can be tried for a target, each by one edit that has not been tried on it for this."""
    tried: dict[tuple[str, int], set[str]] = {}
    for shard, index, edit in target.tried:
        tried.setdefault((shard, index), set()).add(edit)
    found: dict[str, list[tuple[int, str]]] = {}
    for person in state.people:
        done = tried.get((person.shard, person.index), set())
        if len(done) >= recipe.attempts:
            continue
        edits = [edit for edit in recipe.edits if edit.name not in done and leads_to(edit, person, target)]
        if edits:
            best = max(edits, key=lambda edit: rank(edit, chance_of(person, edit)))
            found.setdefault(person.shard, []).append((person.index, best.name))
    return found


def leads_to(edit: Edit, person: Person, target: Target) -> bool:
    """Say whether an edit can make of somebody what a target asks: not of who has it already, nor by an edit that undoes a part of it."""
    if target.group is None:
        return edit.name == target.name and not shows(edit, dict.fromkeys(person.labels, True))
    lacking = {name for name, wanted in target.group.holds if (name in person.labels) != wanted}
    wanted = dict(target.group.holds)
    against = any(wanted.get(name, value) != value for name, value in edit.expects.items())
    return bool(lacking) and lacking <= edit.expects.keys() and not against


def quotas(wanted: int, available: Mapping[str, int]) -> dict[str, int]:
    """Divide `wanted` among shards in proportion to what they have, none more than it has; all that they have where that is less."""
    total = sum(available.values())
    if wanted >= total:
        return dict(available)
    return apportioned({shard: wanted * count / total for shard, count in sorted(available.items())}, wanted)


def apportioned(exact: Mapping[T, float], total: int) -> dict[T, int]:
    """Return whole numbers near the exact ones that add up to `total`: rounded down, and one more where most was cut off.

    (Largest remainders; equal ones in the order given.)
    """
    whole = {name: math.floor(value + ROUNDING) for name, value in exact.items()}
    by_rest = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in by_rest[: total - sum(whole.values())]:
        whole[name] += 1
    return whole
