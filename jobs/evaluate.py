"""Measure a pack on held-out data and print the figures as JSON.

    python jobs/evaluate.py --suite pack --pack packs/portraits64
    python jobs/evaluate.py --suite inversion --output out/inversion
    python jobs/evaluate.py --suite editing --methods configs/evaluate/editing.yaml --output out/editing
    python jobs/evaluate.py --suite editing --methods configs/evaluate/nightly.yaml --champion auto --output out/nightly
    python jobs/evaluate.py --suite strengths --instructions configs/instructions/portraits.yaml

`pack`: landmarks, attribute classifier, inversion and editing on raw portraits of people that no network was trained on. `inversion`: all
inverters of the pack on such portraits, with times, plots and what can be edited after, as a page in `--output` and an MLflow run.
`editing`: the rows of `--methods`, an editor on an inverter each, in the layout of the papers' tables, as such a page and run.
`strengths`: how strongly each instruction should be applied, chosen on people that no other suite measures on. The last thing printed is
the JSON; `--output FILE.json` also writes it, `--output FOLDER` beside the page. With `--champion` suite editing compares itself with an
earlier run (docs/scheduling.md), and the same command goes on after the last row where it was stopped. Exit codes: 0 done, 2 wrong
arguments, 3 done and worse than the champion, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import jsonargparse
import torch

from evaluation import editing_run, editing_suite, inversion_run, inversion_suite, new_pack, pack_suite, strengths
from evaluation.editing_plan import load_plan
from evaluation.held_out import HELD_OUT_SEED
from evaluation.past_runs import NONE, past_runs
from evaluation.run_tracking import EXPERIMENT, editing_metrics, inversion_metrics, tracked
from evaluation.standing import Standing, judged_in, tolerances_with
from models.editor_names import problem
from models.instruction import Instruction, InstructionError, load_instructions
from models.pack import Pack, PackError
from pipeline.config import ConfigError, TrackingConfig, with_values
from pipeline.registry import resolve_pack
from pipeline.training_run import Run

SUITES = (pack_suite.NAME, inversion_suite.NAME, editing_suite.NAME, strengths.NAME)
WITH_PAGE = (inversion_suite.NAME, editing_suite.NAME)
PICTURES = 200
REGRESSION = 3
INTERRUPTED = 130
SHIPPED = "configs/instructions/portraits.yaml"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure.

    Args:
        suite: One of: pack, inversion, editing, strengths.
        pack: Folder or URL of the pack, or models:/NAME@ALIAS or models:/NAME/VERSION in MLflow's model registry.
        tracking_uri: MLflow server or database with that registry and for the runs of suites inversion and editing; by default
            MLFLOW_TRACKING_URI.
        instructions: YAML file of the instructions to measure; by default those of the pack, with the strengths chosen for it,
            or else configs/instructions/portraits.yaml.
        methods: YAML file of the rows of suite editing.
        pictures: Held-out portraits; by default 1,000 for suite pack and 500 for suite inversion. Portraits of each instruction in suite
            editing, by default 200, and, from validation, in suite strengths, by default 150.
        edits: Held-out portraits per instruction in suite pack.
        inverter: Inverter to measure in suite pack.
        inverters: Inverters to measure in suite inversion; by default all that the pack has; NAME+LABEL is NAME again.
        inverter_settings: Settings of inverters in suite inversion, by their name or NAME+LABEL.
        judge: Pack whose CLIP, and attribute classifier if it has one, judge edits in suite editing beside the pack's own: others than
            the editors were trained with.
        optimised: Held-out portraits for inverters, and in suite editing for editors, that optimise for every picture.
        input: Shards whose pictures suite inversion inverts in place of rendered portraits: aligned ones where they hold such, else the
            centred square.
        attribute: Attribute whose change the editability curves of suite inversion are drawn over.
        style: Style of the portraits in suite inversion: photo, or one that no network saw, such as sketch or cartoon.
        ablations: Further tables of suite inversion: hyperstyle (passes, and the networks of --variants), gani_blocks, gani_norms.
        ablation_pictures: Held-out portraits for those tables.
        variants: Packs by label whose HyperStyle was trained otherwise on the same generator.
        adapted: Pack whose generator was fine-tuned from the pack's to another style; offsets are tried on it in suite inversion.
        adapted_text: What that style is called, such as "a cartoon of a face".
        editor: Editor to measure.
        seed: Which held-out people suite editing draws; runs of the same people are compared portrait by portrait.
        champion: Run that suite editing is compared with: auto (the champion of the experiment, which the first run becomes), the id of a
            run, or none.
        promote: Make this run the champion, unless it is worse than the one before.
        tolerances: By how much a measure may become worse before it is a regression, where that is not the default.
        experiment: Experiment of MLflow; each has a champion of its own.
        device: Where the networks run: auto, cpu or cuda; auto takes a GPU where there is one. The figures name it.
        threads: Threads of torch.
        output: JSON file, or folder for the page of suites inversion and editing.
    """

    suite: str = pack_suite.NAME
    pack: str = "packs/portraits64"
    tracking_uri: str | None = None
    instructions: str | None = None
    methods: str = "configs/evaluate/editing.yaml"
    pictures: int | None = None
    edits: int = pack_suite.EDITS
    inverter: str = "e4e"
    inverters: tuple[str, ...] = ()
    inverter_settings: dict[str, dict[str, bool | int | float | str]] = field(default_factory=dict)
    judge: str | None = None
    optimised: int = inversion_run.Plan().optimised
    input: str | None = None
    attribute: str = inversion_run.Plan().attribute
    style: str = "photo"
    ablations: tuple[str, ...] = ()
    ablation_pictures: int = inversion_run.Plan().ablation_pictures
    variants: dict[str, str] = field(default_factory=dict)
    adapted: str | None = None
    adapted_text: str = ""
    editor: str = "hypereditor"
    seed: int = 0
    champion: str = NONE
    promote: bool = False
    tolerances: dict[str, float] = field(default_factory=dict)
    experiment: str = EXPERIMENT
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    output: Path | None = None


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def evaluate(options: Options) -> dict[str, object]:
    """Run the suite; return its figures. Raises ConfigError, PackError or InstructionError."""
    pack = Pack.load(resolve_pack(options.pack, uri=options.tracking_uri), device=device_for(options.device))
    head = {"suite": options.suite, "pack": pack.sha256, "device": device_name(pack.device)}
    if options.suite == inversion_suite.NAME:
        return _inversion(pack, options, head)
    if options.suite == editing_suite.NAME:
        return _editing(pack, options, head)
    if options.suite == strengths.NAME:
        chosen = strengths.choose(
            pack, instructions_for(pack, options), say=say, pictures=options.pictures or strengths.PICTURES, editor=options.editor,
            inverter=options.inverter,
        )  # fmt: skip
        return {**head, "instructions": chosen}
    instructions = instructions_for(pack, options)
    for instruction in instructions:
        if wrong := problem(pack.info, options.editor, instruction):
            raise InstructionError(wrong)
    figures = pack_suite.measure(
        pack, instructions, editor=options.editor, inverter=options.inverter,
        pictures=options.pictures or pack_suite.PICTURES, edits=options.edits, say=say,
    )  # fmt: skip
    return {**head, **figures}


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


def _inversion(pack: Pack, options: Options, head: Mapping[str, object]) -> dict[str, object]:
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


def _editing(pack: Pack, options: Options, head: Mapping[str, object]) -> dict[str, object]:
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
    return {**head, **figures, "page": str(files[0])}


def _standing(options: Options, folder: Path) -> Standing:
    """Return what the run is held against. Raises ConfigError."""
    tolerances = tolerances_with(options.tolerances)
    tracking = TrackingConfig(uri=options.tracking_uri, experiment=options.experiment)
    past = past_runs(tracking, suite=options.suite, output=str(folder.resolve()), champion=options.champion)
    return Standing(past=past, champion=options.champion, promote=options.promote, tolerances=tolerances)


def exit_code(result: Mapping[str, object]) -> int:
    """Say how the run stands to the champion, and return 3 where it is worse, else 0."""
    judged = judged_in(result)
    if judged is not None:
        say(f"evaluate: {judged['explanation']}")
    return REGRESSION if judged is not None and judged["regressions"] else 0


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, args=with_values(sys.argv[1:], {"--promote"}), as_positional=False)
    if options.suite not in SUITES:
        print(f"evaluate: --suite {options.suite}: expected one of {', '.join(SUITES)}", file=sys.stderr)
        return 2
    if options.suite != editing_suite.NAME and (options.champion != NONE or options.promote or options.seed or options.tolerances):
        print(f"evaluate: --champion, --promote, --seed and --tolerances are for suite editing, not {options.suite}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    try:
        result = evaluate(options)
    except (PackError, InstructionError, ConfigError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        then = "; the same command goes on after the last row that was measured" if options.suite == editing_suite.NAME else ""
        print(f"evaluate: stopped{then}", file=sys.stderr)
        return INTERRUPTED
    text = json.dumps(result, indent=1)
    if options.output is not None and options.suite not in WITH_PAGE:
        options.output.write_text(text + "\n")
    print(text, flush=True)
    return exit_code(result)


if __name__ == "__main__":
    sys.exit(main())
