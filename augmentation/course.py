"""The course of an augmentation: the statistics that the realism gate needs first, then rounds of edits until the targets are met."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from augmentation.choice import chance
from augmentation.edits import Edit
from augmentation.plan import recipe_of
from augmentation.quotas import Person, State, plan_round, read_state
from augmentation.recipe import CLASSIFIER, Recipe, RecipeError
from augmentation.rows import DRAWN, UNLABELLED, read_rows
from augmentation.wish import REALISM_FILE, AugmentWish, ShardPlan, name_of, plan_path
from augmentation.yields import met, total, yields
from pipeline.cluster import Pool
from pipeline.drawn_shards import DRAWN_NAME
from pipeline.plan import JobPlan
from pipeline.resume import discard, finished_shards
from pipeline.run import say
from pipeline.settings import WorkerSettings
from pipeline.shard_list import LATER_ROUND
from pipeline.shards import Shard
from pipeline.storage import Storage
from pipeline.summary import count_output

MOST_ROUNDS = 6
"""Rounds of edits after which what is missing is explained; each asks what the gates of the one before left open."""


class AugmentCourse:
    """Follow one recipe; of one run of a job."""

    documents = "augmentation.documents"

    def __init__(self, plan: JobPlan) -> None:
        self._first = plan
        self._recipe: Recipe = recipe_of(plan)
        self._later: list[str] = []
        self._round = 0
        self._state: State | None = None
        """What the last round left; None without targets."""

    def trial(self, plan: JobPlan) -> JobPlan:
        """Return a plan by which a batch can be tried without labels: with one edit of each sample where the recipe asks for targets."""
        assert isinstance(plan.wish, AugmentWish)
        if not self._recipe.planned:
            return plan
        recipe = replace(self._recipe, per_sample=1, per_edit={}, balance=None)
        return replace(plan, wish=replace(plan.wish, recipe=recipe, phase="samples"))

    def prepare(self, plan: JobPlan, storage: Storage, *, pool: Pool, settings: WorkerSettings) -> None:
        """Measure what the generator's own pictures are like, once for an output."""
        if not self._recipe.asks_realism or _fits(storage, name_of(plan.pack_hash, plan.running.precision)):
            return
        from augmentation.remote import measure_realism

        say("realism: drawing pictures of the generator's own, to know what is usual")
        storage.write(REALISM_FILE, measure_realism(settings, pool))

    def after(self, plan: JobPlan, storage: Storage) -> JobPlan | None:
        """Return the next round of edits; None where every target is met, or nobody is left to try."""
        if not self._round and self._recipe.labels != CLASSIFIER:
            _check_labels(storage, self._recipe)
        if not self._recipe.planned:
            self._forget_others(plan, storage)
            return None
        if self._round:
            self._later += [shard.name for shard in plan.shards]
        else:
            self._first = plan
        state = self._state = self._read(storage)
        wanted = plan_round(self._recipe, state, self._chance) if self._round < MOST_ROUNDS else {}
        if not wanted:
            self._forget_others(self._first, storage)
            return None
        self._round += 1
        missing = sum(target.missing for target in state.targets)
        say(f"round {self._round} of edits: {missing} are wanted, from {sum(len(one.indices()) for one in wanted.values())} samples")
        return self._planned(wanted, storage)

    def _planned(self, wanted: Mapping[str, ShardPlan], storage: Storage) -> JobPlan:
        assert isinstance(self._first.wish, AugmentWish)
        digest, shards = hashlib.sha256(), []
        urls = {shard.name: shard.url for shard in self._first.shards}
        for shard, plan in wanted.items():
            name = f"{shard}{LATER_ROUND}{self._round}"
            data = plan.to_json()
            if not storage.exists(plan_path(name)) or storage.read(plan_path(name)) != data:
                storage.write(plan_path(name), data)
            digest.update(name.encode() + b"\0" + data)
            shards.append(Shard(url=urls[shard], name=name))
        content = (*self._first.content, {"round": self._round, "plans": digest.hexdigest()})
        return replace(self._first, shards=tuple(shards), content=content, wish=replace(self._first.wish, phase="edits"))

    def record(self, plan: JobPlan, storage: Storage) -> Mapping[str, object]:
        """Return recipe, yields and targets for run.json, and say what is missing."""
        made = yields(self._recipe, storage)
        targets = [] if self._state is None else met(self._state, self._recipe, made)
        for one in targets:
            if one["missing"]:
                say(f"WARNING: {one['target']}: {one['missing']} of {one['wanted']} are missing: {one['why']}")
        if targets and not total(targets):
            say("every target is met exactly")
        return {"augmentation": {"recipe": self._recipe.content(), "yields": made, "targets": targets, "rounds": self._round}}

    def _read(self, storage: Storage) -> State:
        return read_state(self._recipe, storage, shards=[shard.name for shard in self._first.shards], later=self._later)

    def _chance(self, person: Person, edit: Edit) -> float:
        return chance(self._recipe.seed, person.shard, person.key, edit.name, "order")

    def _forget_others(self, plan: JobPlan, storage: Storage) -> None:
        """Discard what an earlier run, by another recipe or with other labels, made of this input and this one does not make.

        What was made of input that is not there any more stays, as its originals do.
        """
        names = {shard.name for shard in plan.shards}
        for name in finished_shards(storage) - names - set(self._later):
            if name.rpartition(LATER_ROUND)[0] in names or (DRAWN_NAME.fullmatch(name) and _is_drawn(storage, name)):
                discard(storage, name)
                storage.remove("report.html")  # it is not true any more, and its absence has it written again
        left = finished_shards(storage)
        for path in storage.files("plans"):
            if path[len("plans/") : -len(".json")] not in left:
                storage.remove(path)


def _check_labels(storage: Storage, recipe: Recipe) -> None:
    """Raise RecipeError where no original brings the labels that a recipe counts on; say how many do not."""
    counts = count_output(storage)
    lacking, people = counts.get(UNLABELLED, 0), counts["edited"]
    if lacking and lacking >= people:
        raise RecipeError(f"labels: none of {people} originals has labels at {recipe.labels!r}; name the member and the place in it")
    if lacking:
        say(f"WARNING: {lacking} of {people} originals have no labels at {recipe.labels!r}: the classifier's stand for them")


def _is_drawn(storage: Storage, name: str) -> bool:
    """Say whether a finished shard holds drawn pictures, and not an input that is called like one of these."""
    return storage.exists(f"manifests/{name}.parquet") and any(row["kind"] == DRAWN for row in read_rows(storage, name, ("kind",)))


def _fits(storage: Storage, networks: str) -> bool:
    if not storage.exists(REALISM_FILE):
        return False
    try:
        with np.load(io.BytesIO(storage.read(REALISM_FILE)), allow_pickle=False) as found:
            return str(found["networks"]) == networks
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False
