"""What `jobs/evaluate.py` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evaluation import editing_suite, gates_suite, inversion_run, inversion_suite, pack_suite, strengths
from evaluation.past_runs import NONE
from evaluation.run_tracking import EXPERIMENT

SUITES = (pack_suite.NAME, inversion_suite.NAME, editing_suite.NAME, gates_suite.NAME, strengths.NAME)
WITH_SEED = (editing_suite.NAME, gates_suite.NAME)
WITH_PAGE = (inversion_suite.NAME, editing_suite.NAME, gates_suite.NAME)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure.

    Args:
        suite: One of: pack, inversion, editing, gates, strengths.
        pack: Folder or URL of the pack, or models:/NAME@ALIAS or models:/NAME/VERSION in MLflow's model registry.
        tracking_uri: MLflow server or database with that registry and for the runs of suites inversion and editing; by default
            MLFLOW_TRACKING_URI.
        instructions: YAML file of the instructions to measure; by default those of the pack, with the strengths chosen for it,
            or else configs/instructions/portraits.yaml.
        methods: YAML file of the rows of suite editing.
        pictures: Held-out portraits; by default 1,000 for suite pack and 500 for suite inversion. Portraits of each instruction in suite
            editing and each edit in suite gates, by default 200, and, from validation, in suite strengths, by default 150.
        edits: Held-out portraits per instruction in suite pack.
        inverter: Inverter to measure in suites pack and gates.
        inverters: Inverters to measure in suite inversion; by default all that the pack has; NAME+LABEL is NAME again.
        inverter_settings: Settings of inverters in suite inversion, by their name or NAME+LABEL.
        judge: Pack whose CLIP, and attribute classifier if it has one, judge edits in suite editing beside the pack's own: others than
            the editors were trained with. In suite gates a pack with another attribute classifier and identity network.
        recipe: Recipe whose gates suite gates measures.
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
        seed: Which held-out people suites editing and gates draw; runs of the same people are compared portrait by portrait.
        champion: Run that suite editing is compared with: auto (the champion of the experiment, which the first run becomes), the id of a
            run, or none.
        promote: Make this run the champion, unless it is worse than the one before.
        tolerances: By how much a measure may become worse before it is a regression, where that is not the default.
        experiment: Experiment of MLflow; each has a champion of its own.
        device: Where the networks run: auto, cpu or cuda; auto takes a GPU where there is one. The figures name it.
        threads: Threads of torch.
        output: JSON file, or folder for the page of suites inversion, editing and gates.
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
    recipe: str = "configs/augment/portraits.yaml"
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
