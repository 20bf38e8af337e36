"""What an augmentation is going to do, checked before anything starts: the recipe against the pack, and the shards. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from augmentation.config import AugmentConfig
from augmentation.edits import SAME_PERSON
from augmentation.recipe import Recipe, RecipeError
from augmentation.recipe_file import load_recipe
from augmentation.wish import AugmentWish
from models.pack_format import PackInfo
from pipeline.config import ConfigError, nearest
from pipeline.drawn_shards import shards as drawn_shards
from pipeline.plan import JobPlan, attribute_names, check_texts, parse_instructions, plan_for
from pipeline.shard_list import LATER_ROUND
from pipeline.shards import InputError, Shard, list_shards

THRESHOLD = "threshold_far1"


def make_augment_plan(config: AugmentConfig) -> JobPlan:
    """Look up and check all that a configuration and its recipe name; changes nothing.

    Raises RecipeError beside what `pipeline.plan.make_plan` raises.
    """
    recipe = load_recipe(config.recipe, instructions=parse_instructions)
    wish = AugmentWish(recipe=recipe, phase="originals" if recipe.planned else "samples", seed=config.seed)
    plan = plan_for(config, wish=wish, content=(recipe.content(),), shards=lambda: _shards(config, recipe))
    check_texts([edit.as_one() for edit in recipe.edits if len(edit.instructions) > 1], plan.pack)
    try:
        _check_gates(recipe, plan.pack)
        _check_groups(recipe, plan.pack)
    except RecipeError as error:
        raise RecipeError(f"--recipe {config.recipe}: {error}") from None
    return plan


def recipe_of(plan: JobPlan) -> Recipe:
    """Return the recipe that a plan follows."""
    assert isinstance(plan.wish, AugmentWish)
    return plan.wish.recipe


def _shards(config: AugmentConfig, recipe: Recipe) -> tuple[Shard, ...]:
    if recipe.edits and not config.input:
        raise ConfigError("--input: not given, and the recipe edits pictures; name shards, as for edit_dataset")
    listed = list_shards(config.input) if config.input else ()
    more = () if recipe.drawn is None else drawn_shards(
        count=recipe.drawn.count, first=recipe.drawn.seed, truncation=recipe.drawn.truncation, shard_size=recipe.drawn.shard_size
    )  # fmt: skip
    taken = {shard.name for shard in more}
    for shard in listed:
        if shard.name in taken or LATER_ROUND in shard.name:
            raise InputError(f"--input: the shard {shard.name!r} is called like one that this job makes itself; rename it")
    return (*listed, *more)


def _check_gates(recipe: Recipe, pack: PackInfo) -> None:
    """Raise RecipeError for a gate that asks for what the pack cannot measure."""
    has = pack.networks
    for edit in recipe.edits:
        gates, where = edit.gates, f"edit {edit.name!r}: the gate"
        if "attributes" not in has and (gates.success is not None or gates.collateral is not None):
            wanted = "success" if gates.success is not None else "collateral"
            raise RecipeError(f"{where} {wanted} needs an attribute classifier, which pack {pack.name!r} lacks; say {wanted}: null")
        if gates.identity is not None and "identity" not in has:
            raise RecipeError(f"{where} identity needs an identity network, which pack {pack.name!r} lacks; say identity: null")
        if gates.identity == SAME_PERSON and THRESHOLD not in has["identity"].numbers:
            raise RecipeError(f"{where} identity: the pack's network has no threshold; give a similarity such as identity: 0.5")
        _check_realism(where, gates.realism, has)
    if recipe.drawn is not None:
        _check_realism("drawn: the gate", recipe.drawn.realism, has)


def _check_realism(where: str, realism: float | None, has: Mapping[str, object]) -> None:
    if realism is not None and not {"clip", "identity"} & set(has):
        raise RecipeError(f"{where} realism needs CLIP or an identity network, and the pack has neither; say realism: null")


def _check_groups(recipe: Recipe, pack: PackInfo) -> None:
    """Raise RecipeError for groups that nobody can belong to, or that nothing can tell apart."""
    if not recipe.planned:
        return
    if "attributes" not in pack.networks:
        raise RecipeError(f"accepted: needs labels of the originals, and pack {pack.name!r} has no attribute classifier")
    if recipe.balance is None:
        return
    config = pack.networks["attributes"].config
    known = attribute_names(config)
    for name in recipe.balance.attributes:
        if name not in known:
            raise RecipeError(f"accepted.balance.attributes: {name!r} is unknown to this pack's classifier: {nearest(name, known)}")
    exclusive = config.get("groups")
    for members in exclusive.values() if isinstance(exclusive, Mapping) else ():
        both = [name for name in recipe.balance.attributes if name in members]
        wanted = [
            group for group, share in recipe.balance.shares if share > 0 and sum(holds for name, holds in group.holds if name in both) > 1
        ]
        if wanted:
            shown = [name for name, holds in wanted[0].holds if holds and name in both]
            what = f"nobody shows {' and '.join(repr(name) for name in shown)} at once"
            raise RecipeError(
                f"accepted.balance: impossible, {what}; balance one of them, or give the group {str(wanted[0])!r} a share of 0"
            )
