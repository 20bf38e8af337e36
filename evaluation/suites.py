"""Run a suite of `jobs/evaluate.py`: pack, inversion, editing, gates or strengths, from its options to its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from augmentation.recipe_file import load_recipe
from evaluation import (
    editing_run,
    editing_suite,
    gates_page,
    gates_suite,
    inversion_run,
    inversion_suite,
    new_pack,
    pack_suite,
    strengths,
)  # fmt: skip
from evaluation.editing_plan import Say, check_expectations, check_texts, load_plan
from evaluation.held_out import HELD_OUT_SEED
from evaluation.kept_rows import forget
from evaluation.options import Options
from evaluation.past_runs import past_runs
from evaluation.run_tracking import editing_metrics, inversion_metrics, tracked
from evaluation.standing import Standing, judged_in, tolerances_with
from models.editor_names import problem
from models.instruction import Instruction, InstructionError, load_instructions
from models.pack import Pack
from pipeline.config import ConfigError, TrackingConfig
from pipeline.plan import parse_instructions
from pipeline.registry import resolve_pack
from pipeline.training_run import Run

PICTURES = 200
"""Portraits of each instruction in suite editing."""
SHIPPED = "configs/instructions/portraits.yaml"
JUDGES = "packs/judges64"
"""Classifiers of the portraits world that nothing was trained with, and no gate asks."""


def run_suite(options: Options, *, say: Say) -> dict[str, object]:
    """Run the suite; return its figures. Raises ConfigError, PackError, InstructionError or RecipeError."""
    pack = Pack.load(resolve_pack(options.pack, uri=options.tracking_uri), device=device_for(options.device))
    head = {"suite": options.suite, "pack": pack.sha256, "device": device_name(pack.device)}
    if options.suite == inversion_suite.NAME:
        return _inversion(pack, options, head, say=say)
    if options.suite == editing_suite.NAME:
        return _editing(pack, options, head, say=say)
    if options.suite == gates_suite.NAME:
        return _gates(pack, options, head, say=say)
    instructions = instructions_for(pack, options)
    check_instructions(pack, instructions, editor=options.editor)
    if options.suite == strengths.NAME:
        chosen = strengths.choose(
            pack, instructions, say=say, pictures=options.pictures or strengths.PICTURES, editor=options.editor,
            inverter=options.inverter,
        )  # fmt: skip
        return {**head, "instructions": chosen}
    figures = pack_suite.measure(
        pack, instructions, editor=options.editor, inverter=options.inverter,
        pictures=options.pictures or pack_suite.PICTURES, edits=options.edits, say=say,
    )  # fmt: skip
    return {**head, **figures}


def check_instructions(pack: Pack, instructions: Sequence[Instruction], *, editor: str) -> None:
    """Raise InstructionError for one that the editor cannot follow, CLIP cannot read, or nobody could judge."""
    check_expectations(pack, instructions)
    check_texts(instructions, pack)
    for instruction in instructions:
        if wrong := problem(pack.info, editor, instruction):
            raise InstructionError(wrong)


def device_for(wanted: str) -> str:
    """Return cpu or cuda. Raises ConfigError where there is no GPU to run on."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU on this machine; leave it out, or say cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def device_name(device: str) -> str:
    """Return what the device is called."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def instructions_for(pack: Pack, options: Options) -> tuple[Instruction, ...]:
    """Return the instructions to measure. Raises InstructionError."""
    own = pack.path / new_pack.INSTRUCTIONS
    return load_instructions(options.instructions or (str(own) if own.is_file() else SHIPPED))


def _inversion(pack: Pack, options: Options, head: Mapping[str, object], *, say: Say) -> dict[str, object]:
    """Run the suite, leave the page in the output folder and record both in MLflow."""
    plan = inversion_run.Plan(
        inverters=options.inverters, pictures=options.pictures or inversion_run.Plan().pictures, optimised=options.optimised,
        settings=options.inverter_settings, input=options.input, attribute=options.attribute, style=options.style,
        ablations=options.ablations, ablation_pictures=options.ablation_pictures, device=str(head["device"]),
        variants=options.variants, adapted=options.adapted, adapted_text=options.adapted_text,
    )  # fmt: skip
    folder = options.output or Path("out/inversion")
    figures, files = tracked(
        lambda: inversion_run.measure(pack, plan, folder, say=say), uri=options.tracking_uri, folder=folder,
        name=f"inversion {pack.info.name}", params={**head, **asdict(plan)}, metrics=inversion_metrics, suite=options.suite,
        experiment=options.experiment,
    )  # fmt: skip
    return {**head, **figures, "page": str(files[0])}


def _editing(pack: Pack, options: Options, head: Mapping[str, object], *, say: Say) -> dict[str, object]:
    """Run the suite, leave the page in the output folder and record both in MLflow."""
    plan = load_plan(
        options.methods, instructions=instructions_for(pack, options), pictures=options.pictures or PICTURES, optimised=options.optimised,
        judge=options.judge, device=str(head["device"]), seed=HELD_OUT_SEED + options.seed,
    )  # fmt: skip
    loaded = editing_run.ready(pack, plan, say=say)  # before there is a run: a wrong name is none
    folder = options.output or Path("out/editing")
    standing = _standing(options, folder)
    standing.check([(label, one.name) for label, row in loaded.rows.items() for one in row.instructions])

    def crown(run: Run, figures: Mapping[str, object]) -> None:
        if run.run_id is not None and standing.is_new_champion(judged_in(figures)):
            standing.past.crown(run.run_id)
            say(f"run {run.run_id} is the champion now")

    figures, files = tracked(
        lambda: editing_run.measure(pack, plan, folder, say=say, loaded=loaded, standing=standing), uri=options.tracking_uri, folder=folder,
        name=f"editing {pack.info.name}", params={**head, **asdict(plan)}, metrics=editing_metrics, suite=options.suite,
        experiment=options.experiment, tags=lambda figures: standing.tags(judged_in(figures)), then=crown,
    )  # fmt: skip
    forget(folder)
    return {**head, **figures, "page": str(files[0])}


def _gates(pack: Pack, options: Options, head: Mapping[str, object], *, say: Say) -> dict[str, object]:
    """Run the suite and leave the page in the output folder."""
    recipe = load_recipe(options.recipe, instructions=parse_instructions)
    if options.judge is None:
        raise ConfigError(f"--judge: suite gates needs a pack whose classifiers took no part in the gates, such as {JUDGES}")
    judge = Pack.load(resolve_pack(options.judge, uri=options.tracking_uri), device=pack.device)
    missing = [name for name in ("attributes", "identity") if name not in judge.info.networks]
    if missing:
        raise ConfigError(f"--judge {options.judge}: the pack has no network {missing[0]!r}, which suite gates needs; try {JUDGES}")
    check_instructions(pack, recipe.instructions, editor=options.editor)
    unknown = [name for edit in recipe.edits for name in edit.expects if name not in judge.attributes().names]
    if unknown:
        raise ConfigError(f"--judge {options.judge}: its attribute classifier does not know {unknown[0]!r}, which the recipe expects")
    found = gates_suite.measure(
        pack, judge, recipe, seed=HELD_OUT_SEED + options.seed, say=say, pictures=options.pictures or PICTURES, inverter=options.inverter,
        editor=options.editor,
    )  # fmt: skip
    figures = {**head, "recipe": options.recipe, "judge": judge.sha256, "pack_name": pack.info.name, "judge_name": judge.info.name, **found}
    files = gates_page.write(figures, options.output or Path("out/gates"))
    return {**figures, "page": str(files[0])}


def _standing(options: Options, folder: Path) -> Standing:
    """Return what the run is held against. Raises ConfigError."""
    tolerances = tolerances_with(options.tolerances)
    tracking = TrackingConfig(uri=options.tracking_uri, experiment=options.experiment)
    past = past_runs(tracking, suite=options.suite, output=str(folder.resolve()), champion=options.champion)
    return Standing(past=past, champion=options.champion, promote=options.promote, tolerances=tolerances)
