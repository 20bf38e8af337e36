"""A whole pack from nothing: stages with their needs, each a training of its own, whose results the last step joins.

A stage whose folder already holds a result for the same settings is not run again, and one that was stopped goes on from its newest
checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from models.instruction import Instruction
from models.pack import Pack, add_file, start_pack
from pipeline.lock import WORK
from training.data import HELD_OUT, VALIDATION
from training.editing import chosen_instructions
from training.edits import Judges, measure, summary
from training.group import Group
from training.kinds.attributes import AttributesConfig
from training.kinds.clip import ClipConfig
from training.kinds.clip_adapter import AdapterConfig
from training.kinds.clip_remapper import RemapperConfig
from training.kinds.e4e import EncoderConfig
from training.kinds.generator import GeneratorConfig
from training.kinds.hairclip import HairClipConfig
from training.kinds.hypereditor import HyperEditorConfig
from training.kinds.hyperstyle import HyperStyleConfig
from training.kinds.identity import IdentityConfig
from training.kinds.landmarks import LandmarksConfig
from training.kinds.mapping import MappingConfig
from training.kinds.parser import ParserConfig
from training.kinds.psp import PspConfig
from training.kinds.restyle_e4e import ReStyleConfig
from training.kinds.restyle_psp import ReStylePspConfig
from training.kinds.w_encoder import WEncoderConfig
from training.loop import LoopConfig
from training.objective import kind_of
from training.pack_place import begin_beside, copy_network, put_in_place
from training.run import PACK, Result, Training, run_training
from training.watch import Recorder

LICENCE = "Apache-2.0 (trained by this project on its own renders)"
HEAD: Mapping[str, object] = {"name": "portraits64", "domain": "portraits", "size": 64, "licence": LICENCE}
HYPEREDITOR_DETAILS, STRENGTHS, BEGUN, DONE = "hypereditor.json", "strengths.json", "begun", "done"
REPLACED = "replaced"
ABLATION_STRENGTHS = (0.5, 0.75, 1.0, 1.5, 2.0)
# What a shortened recipe shortens, and down to what.
LEAST = {"steps": 3, "pairwise_steps": 3, "pictures": 200, "pairs": 200, "people": 200, "empty": 20, "merges": 200, "measured": 60}

EDITING = "configs/train/editing_instructions.yaml"
"""What HairCLIP and CLIPInverter are trained or measured on."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A training, and the stages that its frozen networks come from."""

    network: str
    settings: object
    needs: Mapping[str, str] = field(default_factory=dict)
    """Network of the pack that it leans on -> stage that trains it."""
    ablation: bool = False
    """Whether the result is compared at several strengths and stays out of the pack."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All stages of a pack in an order that respects their needs; those that others wait for come first."""

    stages: Mapping[str, Stage]
    scale: float = 1.0
    """Share of the steps, pictures and measured portraits of a real training; below 1 the networks are for trying the command."""
    left_out: tuple[str, ...] = ()
    """Stages that the whole recipe has and this one does not."""

    def packed(self) -> tuple[str, ...]:
        """Return the stages whose networks go into the pack: those that no other stage goes on with."""
        continued = {need for stage in self.stages.values() for network, need in stage.needs.items() if network == _trained(stage)}
        return tuple(name for name, stage in self.stages.items() if name not in continued and not stage.ablation)

    def networks(self) -> frozenset[str]:
        """Return the names of the networks that the pack will have."""
        return frozenset(_trained(self.stages[name]) for name in self.packed())

    def without(self, names: Sequence[str]) -> Recipe:
        """Return the recipe without some stages. Raises ValueError where there is no such stage, or another one needs it."""
        for name in names:
            if name not in self.stages:
                raise ValueError(f"no stage {name!r}: expected some of {', '.join(self.stages)}")
        kept = {name: stage for name, stage in self.stages.items() if name not in names}
        for name, stage in kept.items():
            gone = next((need for need in stage.needs.values() if need not in kept), None)
            if gone is not None:
                raise ValueError(f"stage {name} needs {gone}: leave out {name} too, or neither")
        return replace(self, stages=kept, left_out=(*self.left_out, *names))

    @property
    def command(self) -> str:
        """Return the command that makes such a pack."""
        return "make pack" + (f" PACK=\"--without '[{','.join(self.left_out)}]'\"" if self.left_out else "")

    def fingerprint(self, name: str) -> str:
        """Return a hash of a stage's settings and those of all that it needs."""
        stage = self.stages[name]
        own = [name, stage.network, json.dumps(plain_settings(stage), sort_keys=True)]
        return hashlib.sha256("\n".join([*own, *map(self.fingerprint, stage.needs.values())]).encode()).hexdigest()

    def whole_fingerprint(self) -> str:
        """Return a hash of the settings of all stages."""
        return hashlib.sha256("".join(map(self.fingerprint, self.stages)).encode()).hexdigest()[:16]

    def is_done(self, name: str, work: Path) -> bool:
        """Say whether a stage's result for the present settings is in the work folder."""
        mark = work / name / DONE
        return mark.is_file() and mark.read_text() == self.fingerprint(name)


def recipe(scale: float = 1.0) -> Recipe:
    """Return how the portraits pack is made; `scale` in (0, 1] shortens every stage."""
    encoded = {"generator": "generator", "identity": "identity", "attributes": "attributes"}
    edited = {**encoded, "e4e": "e4e", "clip": "clip"}
    ablation = HyperEditorConfig(only=("smile", "beard", "blond", "zombie"), phases=((800, 1.0),))
    stages = {
        "clip": Stage(network="clip", settings=ClipConfig()),
        "base": Stage(network="generator", settings=GeneratorConfig()),
        "refined": Stage(
            network="generator",
            settings=GeneratorConfig(go_on=True, features=1.0, steps=6500, rate=3e-3, seed=42),
            needs={"generator": "base", "clip": "clip"},
        ),
        "identity": Stage(network="identity", settings=IdentityConfig()),
        "attributes": Stage(network="attributes", settings=AttributesConfig()),
        "landmarks": Stage(network="landmarks", settings=LandmarksConfig()),
        "generator": Stage(network="mapping", settings=MappingConfig(), needs={"generator": "refined"}),
        "e4e": Stage(network="e4e", settings=EncoderConfig(), needs=encoded),
        "hypereditor": Stage(network="hypereditor", settings=HyperEditorConfig(), needs=edited),
        "w_encoder": Stage(network="w_encoder", settings=WEncoderConfig(), needs=encoded),
        "directional": Stage(network="hypereditor", settings=ablation, needs=edited, ablation=True),
        "global": Stage(network="hypereditor", settings=replace(ablation, loss="global"), needs=edited, ablation=True),
        "hyperstyle": Stage(network="hyperstyle", settings=HyperStyleConfig(), needs={**encoded, "w_encoder": "w_encoder"}),
        "restyle_e4e": Stage(network="restyle_e4e", settings=ReStyleConfig(), needs={**encoded, "e4e": "e4e"}),
        "psp": Stage(network="psp", settings=PspConfig(), needs={**encoded, "e4e": "e4e"}),
        "parser": Stage(network="parser", settings=ParserConfig()),
        "hairclip": Stage(network="hairclip", settings=HairClipConfig(instructions=EDITING), needs=edited),
        "clip_adapter": Stage(network="clip_adapter", settings=AdapterConfig(instructions=EDITING), needs=edited),
        "clip_remapper": Stage(
            network="clip_remapper", settings=RemapperConfig(instructions=EDITING), needs={**edited, "clip_adapter": "clip_adapter"}
        ),
        "restyle_psp": Stage(network="restyle_psp", settings=ReStylePspConfig(), needs={**encoded, "psp": "psp"}),
    }
    return Recipe(stages={name: replace(stage, settings=shortened(stage.settings, scale)) for name, stage in stages.items()}, scale=scale)


def shortened(settings: object, scale: float) -> object:
    """Return settings with that share of their steps, data and measured portraits. Raises ValueError outside (0, 1]."""
    if not 0 < scale <= 1:
        raise ValueError(f"scale {scale}: expected more than 0 and at most 1")
    if scale == 1:
        return settings
    found = {f.name: getattr(settings, f.name) for f in fields(settings)}  # type: ignore[arg-type]
    fewer: dict[str, object] = {
        name: max(min(least, found[name]), round(found[name] * scale)) for name, least in LEAST.items() if name in found
    }
    if "phases" in found:
        fewer["phases"] = tuple((max(2, round(steps * scale)), l2) for steps, l2 in found["phases"])
    return replace(settings, **fewer)  # type: ignore[type-var]


def _trained(stage: Stage) -> str:
    return kind_of(stage.network).network


def run_stage(
    plan: Recipe,
    name: str,
    work: Path,
    *,
    recorder: Recorder | None = None,
    threads: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Run one stage or go on with it, until `should_stop` says so; the stages that it needs must be done.

    What an earlier recipe left in its folder is moved to `replaced/` in the work folder, and the stage begins anew.
    """
    stage, out = plan.stages[name], work / name
    set_aside(plan, name, work)
    base = _base(stage, out, work)
    training = Training(
        network=stage.network, settings=stage.settings, output=str(out), loop=LoopConfig(log_every=50, checkpoint_every=500),
        pack=str(base) if base is not None else None, threads=threads, head=HEAD, provenance={"command": "make pack"},
    )  # fmt: skip
    result = run_training(training, Group(), recorder=recorder, should_stop=should_stop)
    if not result.finished:
        return result
    if stage.ablation:
        pictures = max(10, round(100 * plan.scale))
        compared = compare_strengths(Pack.load(out / PACK), chosen_of(stage), pictures=pictures)
        (out / STRENGTHS).write_text(json.dumps(compared, indent=1) + "\n")
    (out / DONE).write_text(plan.fingerprint(name))
    return result


def set_aside(plan: Recipe, name: str, work: Path) -> None:
    """Move away what a stage trained with other settings, its own or of a stage that it needs, and note those of now."""
    out, now = work / name, plan.fingerprint(name)
    marks = {path.read_text() for path in (out / BEGUN, out / DONE) if path.is_file()}
    if marks - {now}:
        old = work / REPLACED / f"{name}-{min(marks - {now})[:8]}"
        shutil.rmtree(old, ignore_errors=True)
        old.mkdir(parents=True)
        for path in out.iterdir():
            if path.name != WORK:  # the command holds its lock there
                path.rename(old / path.name)
    out.mkdir(parents=True, exist_ok=True)
    (out / BEGUN).write_text(now)


def chosen_of(stage: Stage) -> tuple[Instruction, ...]:
    """Return the instructions of a stage that trains an editor."""
    assert isinstance(stage.settings, HyperEditorConfig)
    return chosen_instructions(stage.settings)


def _base(stage: Stage, out: Path, work: Path) -> Path | None:
    """Join what a stage leans on into a pack in its folder."""
    if not stage.needs:
        return None
    folder = out / "base"
    shutil.rmtree(folder, ignore_errors=True)
    start_pack(folder, **HEAD, provenance={})  # type: ignore[arg-type]
    for network, need in stage.needs.items():
        copy_network(Pack.load(work / need / PACK), network, folder)
    return folder


def plain_settings(stage: Stage) -> dict[str, object]:
    """Return a stage's settings in the types that JSON and YAML know."""
    plain = json.loads(json.dumps(asdict(stage.settings), default=list))  # type: ignore[call-overload]
    assert isinstance(plain, dict)
    return plain


def join(
    plan: Recipe, work: Path, folder: Path, *, seconds: float, mlflow_run: str | None = None, finish: Callable[[Path], None] | None = None
) -> None:
    """Join the stages' results into one pack; `seconds` is what the training took by the clock, all runs
    of the command together.

    `finish` may add to the new pack before it takes its place. A kill leaves the old pack or the new one. Raises OutputError where the
    folder holds something else.
    """
    stages = plan.stages
    results = {name: json.loads((work / name / "result.json").read_text()) for name in stages}
    provenance: dict[str, object] = {
        "command": plan.command, "hardware": f"{platform.machine()}, CPU only", "torch": str(torch.__version__),
        "seconds": round(seconds, 1), "thread_seconds": round(sum(result["seconds"] for result in results.values()), 1),
        "generator_teacher": "taught by the renderer (regression on the picture of the same latent); no adversary",
        "held_out": "all numbers are measured on people drawn from seeds that no training uses (training/data.py: HELD_OUT)",
        "settings": {name: plain_settings(stage) for name, stage in stages.items()},
        "stage_seconds": {name: result["seconds"] for name, result in results.items()},
        "ablation": {name: json.loads((work / name / STRENGTHS).read_text()) for name, stage in stages.items() if stage.ablation},
    } | ({"mlflow_run": mlflow_run} if mlflow_run else {}) | ({"scale": plan.scale} if plan.scale < 1 else {})  # fmt: skip
    new = begin_beside(folder)
    start_pack(new, **HEAD, provenance=provenance)  # type: ignore[arg-type]
    for name in plan.packed():
        copy_network(Pack.load(work / name / PACK), _trained(stages[name]), new, dtype=torch.float16)
    if "hypereditor" in stages:
        shutil.copy(work / "hypereditor" / PACK / HYPEREDITOR_DETAILS, new / HYPEREDITOR_DETAILS)
        add_file(new, HYPEREDITOR_DETAILS)
    if finish is not None:
        finish(new)
    put_in_place(folder)


def compare_strengths(pack: Pack, instructions: Sequence[Instruction], *, pictures: int) -> dict[str, object]:
    """Choose an editor's strength on validation people and measure it on held-out ones: losses pull differently hard.

    The best strength is that where most attribute edits succeed on what is still the same person.
    """
    judges, editor = Judges.of(pack), pack.editor("hypereditor")

    def at(strength: float, seed: int) -> dict[str, float]:
        scaled = [replace(instruction, strength=strength) for instruction in instructions]
        return summary(measure(editor, judges=judges, instructions=scaled, pictures=pictures, seed=seed))

    validation = {str(strength): at(strength, VALIDATION + 7) for strength in ABLATION_STRENGTHS}
    best = max(ABLATION_STRENGTHS, key=lambda strength: validation[str(strength)]["success_same_person"])
    return {"strength": best, "held_out": at(best, HELD_OUT + 7), "validation": validation}
