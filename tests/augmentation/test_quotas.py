"""What each shard is asked for: quotas that add up, groups that keep their shares, rounds that end with the targets met exactly."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from augmentation.edits import Edit
from augmentation.quotas import Person, State, Target, group_sizes, leads_to, plan_round, quotas, read_state
from augmentation.recipe import Balance, Group, Recipe, RecipeError, groups_of
from augmentation.wish import Cell, ShardPlan
from models.instruction import Instruction
from pipeline.manifest import Row
from pipeline.storage import Storage
from tests.augmentation.small_augmented import broken, drawn, original, tried, write_manifest, write_shard
from tests.augmentation.small_recipe import GLASSES, GRIN, HAT, NO_GLASSES, SMILE, balance_of, balanced, edit_of

NAMES = ("smile", "glasses", "hat")
counts = st.dictionaries(st.text(max_size=4), st.integers(0, 500), max_size=8)
SMILES, GRINS = edit_of(SMILE), edit_of(GRIN)
MOST_ROUNDS = 40


@given(available=counts, more=st.integers(-2, 2) | st.integers(-3000, 3000))
def test_quotas_are_all_there_is_or_add_up_in_proportion(available: dict[str, int], more: int) -> None:
    total = sum(available.values())
    wanted = max(0, total + more)
    found = quotas(wanted, available)
    assert found.keys() == available.keys() and sum(found.values()) == min(wanted, total)
    for shard, quota in found.items():
        assert 0 <= quota <= available[shard]
        assert wanted >= total or abs(quota - wanted * available[shard] / total) < 1


@st.composite
def balances(draw: st.DrawFn) -> tuple[Balance, dict[Group, int]]:
    """A balance by parts of a whole, and how many originals each group has."""
    groups = groups_of(NAMES[: draw(st.integers(1, 3))])
    parts = draw(st.lists(st.integers(0, 20), min_size=len(groups), max_size=len(groups)).filter(sum))
    shares = tuple((group, part / sum(parts)) for group, part in zip(groups, parts, strict=True))
    there = {group: draw(st.integers(0, 200)) if share else 0 for group, share in shares}
    return Balance(shares=shares, size=draw(st.integers(1, 2000))), there


@given(balances())
def test_sizes_of_groups_add_up_and_keep_all_originals(given_: tuple[Balance, dict[Group, int]]) -> None:
    balance, there = given_
    assert balance.size is not None
    try:
        sizes = group_sizes(balance, there)
    except RecipeError as error:
        # Too many originals: the fix that it names works.
        enough = re.search(r"say size: (\d+) or more, leave size out, or say originals: none", str(error))
        assert enough and int(enough[1]) > balance.size
        balance = Balance(shares=balance.shares, size=int(enough[1]))
        sizes = group_sizes(balance, there)
    assert sum(sizes.values()) == balance.size
    for group, share in balance.shares:
        assert sizes[group] >= there[group] and abs(sizes[group] - share * balance.size) <= 1


@given(balances())
def test_without_a_size_the_dataset_is_the_smallest_that_keeps_all_originals(given_: tuple[Balance, dict[Group, int]]) -> None:
    balance, there = Balance(shares=given_[0].shares), given_[1]
    sizes = group_sizes(balance, there)
    whole = max((there[group] / share for group, share in balance.shares if share), default=0.0)
    for group, share in balance.shares:
        assert there[group] <= sizes[group] and share * whole - 1e-6 <= sizes[group] < share * whole + 1
    assert not any(there.values()) or any(sizes[group] == there[group] > 0 for group in there)


def test_too_many_originals_are_refused_with_the_fix() -> None:
    smile, other = groups_of(["smile"])
    with pytest.raises(RecipeError) as caught:
        group_sizes(balance_of("smile", size=10), {smile: 2, other: 8})
    assert str(caught.value) == (
        "accepted.balance.size 10: 8 originals are no smile, more than the 5 of its share; say size: 16 or more, leave size out, or say "
        "originals: none"
    )
    nobody = Balance(shares=((smile, 1.0), (other, 0.0)))
    with pytest.raises(RecipeError, match="8 originals are no smile, whose share is 0; say originals: none, or give it one"):
        group_sizes(nobody, {smile: 2, other: 8})


def person_of(*holds: str) -> Person:
    return Person(shard="a", index=0, key="0", labels=frozenset(holds))


edits = st.dictionaries(st.sampled_from(NAMES), st.booleans(), min_size=1).map(
    lambda expects: edit_of(Instruction(name="any", source="a face", target="a changed face", expects=expects))
)


@given(edit=edits, holds=st.sets(st.sampled_from(NAMES)), group=st.integers(1, 3).flatmap(lambda n: st.sampled_from(groups_of(NAMES[:n]))))
def test_an_edit_leads_into_a_group_from_outside_and_to_its_inside(edit: Edit, holds: set[str], group: Group) -> None:
    before = dict.fromkeys(holds, True)
    into = not group.admits(before) and group.admits({**before, **edit.expects})
    assert leads_to(edit, person_of(*holds), Target(name=str(group), wanted=1, group=group)) == into


def test_a_target_of_an_edit_takes_that_edit_and_whoever_does_not_show_it_yet() -> None:
    target = Target(name="no_glasses", wanted=1)
    assert leads_to(edit_of(NO_GLASSES), person_of("glasses"), target)
    assert leads_to(edit_of(NO_GLASSES), person_of(), target)  # bare eyes are not sure either
    assert not leads_to(edit_of(NO_GLASSES), person_of("no_eyewear"), target)
    assert not leads_to(edit_of(GLASSES), person_of(), target)


def test_an_edit_whose_result_nobody_can_see_is_tried_on_anybody_and_a_removal_where_there_is_something() -> None:
    odd = Instruction(name="odd", source="a face", target="an odd face")
    bare = Instruction(name="bare", source="a face with a hat", target="a face", expects={"hat": False})
    for person, removed in ((person_of("smile"), False), (person_of("hat"), True)):
        assert leads_to(edit_of(odd), person, Target(name="odd", wanted=1))
        assert leads_to(edit_of(bare), person, Target(name="bare", wanted=1)) == removed


def write(storage: Storage, manifests: Mapping[str, Sequence[Row]]) -> None:
    for name, rows in manifests.items():
        write_manifest(storage, name, rows)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Two shards: eight people of whom two smile, and four who do not."""
    storage = Storage(str(tmp_path))
    write(
        storage,
        {
            "a": [*(original(f"a{n}", n, *(["smile"] if n < 2 else ["hat"])) for n in range(8)), broken("a8", 8)],
            "b": [original(f"b{n}", n, shard="b") for n in range(4)],
        },
    )
    return storage


def in_order(person: Person, edit: Edit) -> float:
    """A chance by which edits of earlier names are preferred."""
    return 1 / (1 + sum(edit.name.encode()))


def planned(recipe: Recipe, storage: Storage, *later: str) -> dict[str, ShardPlan]:
    return plan_round(recipe, read_state(recipe, storage, shards=["a", "b"], later=later), in_order)


def test_a_round_asks_shards_in_proportion_to_who_lacks_what_is_wanted(storage: Storage) -> None:
    plans = planned(balanced(SMILES), storage)
    assert plans == {
        "a": ShardPlan(cells=(Cell(target="smile", quota=5, also={"smile": True}, tries=tuple((n, "smile") for n in range(2, 8))),)),
        "b": ShardPlan(cells=(Cell(target="smile", quota=3, also={"smile": True}, tries=tuple((n, "smile") for n in range(4))),)),
    }
    assert plans["a"].indices() == set(range(2, 8))


def test_a_plan_reads_itself_again(storage: Storage) -> None:
    for plan in planned(balanced(SMILES), storage).values():
        assert ShardPlan.from_json(plan.to_json()) == plan and ShardPlan.from_json(plan.to_json()).to_json() == plan.to_json()


def test_a_target_that_is_reached_is_planned_no_more(storage: Storage) -> None:
    made = [tried(f"a{n}", n, SMILES, target="smile") for n in range(2, 7)]
    more = [tried(f"b{n}", n, SMILES, target="smile", shard="b") for n in range(3)]
    write(storage, {"a.edits-1": made, "b.edits-1": more})
    assert planned(balanced(SMILES), storage, "a.edits-1", "b.edits-1") == {}
    (target,) = [
        one for one in read_state(balanced(SMILES), storage, shards=["a", "b"], later=["a.edits-1"]).targets if one.group and one.missing
    ]
    assert (target.name, target.there, target.accepted, target.missing) == ("smile", 2, 5, 3)


def test_who_was_tried_is_not_tried_again_by_the_same_edit(storage: Storage) -> None:
    write(storage, {"a.edits-1": [tried(f"a{n}", n, SMILES, target="smile", reason="identity") for n in range(2, 6)]})
    again = planned(balanced(SMILES), storage, "a.edits-1")
    assert [index for index, _ in again["a"].cells[0].tries] == [6, 7] and [cell.quota for cell in again["b"].cells] == [4]
    other = planned(balanced(SMILES, GRINS), storage, "a.edits-1")
    assert all(name == "grin" for index, name in other["a"].cells[0].tries if index < 6)


@pytest.mark.parametrize(("attempts", "expected"), [(1, [6, 7]), (2, [2, 3, 4, 5, 6, 7])])
def test_nobody_is_tried_more_often_than_the_recipe_says(storage: Storage, attempts: int, expected: list[int]) -> None:
    write(storage, {"a.edits-1": [tried(f"a{n}", n, SMILES, target="smile", reason="success") for n in range(2, 6)]})
    plan = planned(balanced(SMILES, GRINS, attempts=attempts), storage, "a.edits-1")
    assert [index for index, _ in plan["a"].cells[0].tries] == expected


def test_only_originals_that_are_there_are_counted_and_edited(storage: Storage) -> None:
    rows = [original("a0", 0), broken("a1", 1), drawn("a2", 2, seed=2), tried("a3", 3, SMILES), original("a4", 4, "smile")]
    write(storage, {"a": rows})
    state = read_state(balanced(SMILES), storage, shards=["a"], later=[])
    assert [(person.key, person.labels) for person in state.people] == [("a0", frozenset()), ("a4", frozenset({"smile"}))]


def test_what_fails_in_a_later_round_is_not_asked_for_again(storage: Storage) -> None:
    write(storage, {"a.edits-1": [broken("a2", 2)]})
    plan = ShardPlan(cells=(Cell(target="smile", quota=2, also={"smile": True}, tries=((0, "smile"), (1, "smile"))),))
    storage.write("plans/b.edits-1.json", plan.to_json())
    write_shard(storage, "b.edits-1", [], damage="the shard ends early")
    again = planned(balanced(SMILES), storage, "a.edits-1", "b.edits-1")
    assert [index for index, _ in again["a"].cells[0].tries] == [3, 4, 5, 6, 7]
    assert [index for index, _ in again["b"].cells[0].tries] == [2, 3]


def test_originals_that_do_not_stay_count_for_nothing_and_are_edited_all_the_same(storage: Storage) -> None:
    recipe = Recipe(edits=(SMILES,), balance=Balance(shares=balance_of("smile").shares, size=4), originals="none")
    state = read_state(recipe, storage, shards=["a", "b"], later=[])
    assert {target.name: (target.wanted, target.there) for target in state.targets} == {"smile": (2, 0), "no smile": (2, 0)}
    assert sum(cell.quota for plan in planned(recipe, storage).values() for cell in plan.cells) == 2


def test_every_edit_that_has_a_number_is_a_target_of_its_own(storage: Storage) -> None:
    recipe = Recipe(edits=(SMILES, edit_of(HAT)), per_edit={"smile": 2, "hat": 50})
    plans = planned(recipe, storage)
    assert [(cell.target, cell.quota, dict(cell.also)) for cell in plans["a"].cells] == [("smile", 1, {}), ("hat", 2, {})]
    assert [(cell.target, cell.quota) for cell in plans["b"].cells] == [("smile", 1), ("hat", 4)]
    assert [index for index, _ in plans["a"].cells[1].tries] == [0, 1]  # the others of it wear hats


def test_a_heavier_edit_is_chosen_for_more_people(storage: Storage) -> None:
    write(storage, {"a": [original(f"{n}", n) for n in range(300)], "b": []})
    recipe = Recipe(edits=(edit_of(SMILE, weight=3), GRINS), balance=balance_of("smile", size=600))
    state = read_state(recipe, storage, shards=["a"], later=[])
    plan = plan_round(recipe, state, lambda person, edit: random.Random(f"{person.key} {edit.name}").random())
    names = [name for _, name in plan["a"].cells[0].tries]
    assert 190 < names.count("smile") < 260 and len(names) == 300


def test_where_no_edit_leads_nothing_is_planned() -> None:
    state = State(people=[person_of("smile")], targets=[Target(name="no smile", wanted=3, group=groups_of(["smile"])[1])])
    assert plan_round(balanced(SMILES), state, in_order) == {}


def carried_out(plan: ShardPlan, shard: str, accepts: frozenset[tuple[int, str]], by_name: Mapping[str, Edit]) -> list[Row]:
    """Return the rows of what a worker makes of a plan: it tries in order until each quota is there."""
    rows = []
    for cell in plan.cells:
        left = cell.quota
        for index, name in cell.tries:
            if not left:
                break
            kept = (index, name) in accepts
            left -= kept
            rows.append(tried(f"{index}", index, by_name[name], target=cell.target, shard=shard, reason="" if kept else "success"))
    return rows


@settings(deadline=None, max_examples=25)
@given(data=st.data(), size=st.integers(2, 14), attempts=st.integers(1, 2))
def test_rounds_meet_what_can_be_met_exactly_and_end(data: st.DataObject, size: int, attempts: int) -> None:
    storage, by_name = Storage(f"memory://rounds/{data.draw(st.uuids())}"), {"smile": SMILES, "grin": GRINS}
    smiles = data.draw(st.sets(st.integers(0, size - 1)))
    assume(len(smiles) < size / 2)
    pairs = [(index, name) for index in range(size) for name in by_name if index not in smiles]
    accepts = frozenset(data.draw(st.sets(st.sampled_from(pairs))))
    write(storage, {"s": [original(f"{n}", n, *(["smile"] if n in smiles else [])) for n in range(size)]})
    recipe, later = balanced(SMILES, GRINS, attempts=attempts), list[str]()
    for number in range(1, MOST_ROUNDS):
        state = read_state(recipe, storage, shards=["s"], later=later)
        plan = plan_round(recipe, state, in_order).get("s")
        if plan is None:
            break
        later.append(f"s.edits-{number}")
        write(storage, {later[-1]: carried_out(plan, "s", accepts, by_name)})
    (target,) = [one for one in state.targets if one.name == "smile"]
    tries = {(index, name) for _, index, name in target.tried}
    assert plan is None and target.accepted == len(tries & accepts) <= target.wanted - target.there
    per_person = [sum(index == n for index, _ in tries) for n in range(size)]
    assert max(per_person) <= attempts
    if target.missing:
        assert all(count == attempts for n, count in enumerate(per_person) if n not in smiles)
