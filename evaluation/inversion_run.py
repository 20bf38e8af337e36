"""The inversion suite from a pack to figures and a page: which methods, on how many pictures, with which curves and ablations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from evaluation import inversion_page, inversion_suite
from evaluation.domain_adaptation import Adapted, adapt, check_adapted
from evaluation.held_out import held_out
from evaluation.inversion_ablations import ABLATIONS, Context, check_variants
from evaluation.inversion_suite import Inverted, Judge, Numbers, Say
from models.attribute_directions import LABELLED, METHODS, attribute_direction, spread
from models.inverter_names import OPTIMISERS, inverter_names
from models.inverters import Inverter
from models.pack import Pack, PackError
from training.data import to_float
from training.shards import ShardPictures

FIGURES = "figures.json"
CURVED = ("e4e", "wplus_projection", "hyperstyle", "restyle_e4e", "pti", "gani")
"""Methods of the editability curve, where the pack has them."""
AMOUNTS = (-6.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 6.0)
"""Steps along a direction, in standard deviations of W along it."""
CHANGES = (-0.15, -0.1, -0.05, 0.05, 0.1, 0.2, 0.4, 0.6)
"""Mean changes of an attribute's probability at which identity is compared."""
ADAPTED_STRENGTHS = {"": 1.0, ", half": 0.5}
"""How strongly offsets are applied to a fine-tuned generator."""
DRIFT_PICTURES = 24


def name_of(label: str) -> str:
    """Return the inverter of a label: the part before a plus, so that one inverter can be measured with several settings."""
    return label.partition("+")[0]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure: `pictures` for methods that look once or a few times, `optimised` for those that optimise for every picture."""

    inverters: Sequence[str] = ()
    pictures: int = 500
    optimised: int = 24
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    attribute: str = "smile"
    others: int = 100
    """Random latents at which tuned generators are compared with the untouched one."""
    labelled: int = LABELLED
    """Generated pictures whose labels give the attribute's direction."""
    style: str = "photo"
    input: str | None = None
    """Shards with pictures to invert in place of rendered portraits."""
    device: str = "cpu"
    """What the pack's device is called."""
    ablations: Sequence[str] = ()
    """Names in `inversion_ablations.ABLATIONS`."""
    ablation_pictures: int = 8
    variants: Mapping[str, str] = field(default_factory=dict)
    """Packs whose HyperStyle was trained otherwise, by label, for the ablation of that name."""
    adapted: str | None = None
    """Pack with a generator fine-tuned from the pack's."""
    adapted_text: str = ""
    """What that generator's style is called."""

    def methods(self, pack: Pack) -> dict[str, Inverter]:
        """Return the inverters by label, all that the pack has where none are named. Raises PackError for a name that it lacks."""
        labels = list(self.inverters) or inverter_names(pack.info)
        return {label: pack.inverter(name_of(label), self.settings.get(label, {})) for label in labels}


def measure(pack: Pack, plan: Plan, folder: Path, *, say: Say) -> tuple[dict[str, object], list[Path]]:
    """Return all figures of the suite and the files of the page that it wrote. Raises PackError."""
    methods = plan.methods(pack)  # built first: a wrong name or setting ends the run before its first hour
    ablations, adapted = _ablations(pack, plan), _adapted_pack(pack, plan)
    _check_attribute(pack, plan.attribute)
    judge = Judge(pack)
    data = _subjects(pack, plan, say=say)
    rows, made, drifts = dict[str, Numbers](), dict[str, Inverted](), dict[str, float]()
    for label, inverter in methods.items():
        images = data.aligned_BCHW[: plan.optimised if name_of(label) in OPTIMISERS else None]
        table, inverted = inversion_suite.table(judge, {label: inverter}, images, say=say)
        rows, made = rows | table, made | inverted
        state = inverted[label].states[0]
        if state.offsets:
            few = state.slice(0, min(DRIFT_PICTURES, len(state)))
            drifts[label] = float(inversion_suite.drift(judge, few, latents=plan.others).mean())
        keep(folder, {"table": rows, "drift": drifts})
    curves = _curves(judge, plan, data, made, say=say)
    equal = {name: {label: _at_equal(curve) for label, curve in by_label.items()} for name, by_label in curves.items()}
    same = data.aligned_BCHW[: plan.ablation_pictures]
    tables = {name: inversion_suite.table(judge, inverters, same, say=say)[0] for name, inverters in ablations.items()}
    moved = _adapted(judge, plan, data, made, adapted) if adapted is not None else {}
    findings = inversion_page.Findings(
        pack=f"{pack.info.name}, {data.about}", features={"lpips": judge.lpips.description}, table=rows,
        reconstructions={label: one.image_NCHW[: inversion_page.SHEET_ROWS] for label, one in made.items()},
        wanted_NCHW=data.aligned_BCHW[: inversion_page.SHEET_ROWS], curves=curves, equal=equal, drift=drifts, ablations=tables,
        adapted=moved, adapted_text=plan.adapted_text, held_out=plan.input is None, device=plan.device,
    )  # fmt: skip
    figures: dict[str, object] = {
        "pack": pack.sha256, "pictures": len(data.aligned_BCHW), "features": dict(findings.features), "table": rows, "drift": drifts,
        "editability": curves,
        "equal_change": equal, "ablations": tables, "adapted": {label: one.numbers() for label, one in moved.items()},
        "plan": asdict(plan),
    }  # fmt: skip
    keep(folder, figures)
    return figures, [*inversion_page.write(findings, folder), folder / FIGURES]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subjects:
    """The pictures to invert, (N, 3, H, W) in [-1, 1] on the pack's device, and what they are."""

    aligned_BCHW: Tensor
    about: str


def _subjects(pack: Pack, plan: Plan, *, say: Say) -> Subjects:
    """Return pictures from shards, aligned ones where they hold such, or held-out portraits. Raises PackError."""
    if plan.input is not None:
        try:
            shards = ShardPictures.open(plan.input, size=pack.size)
        except ValueError as error:  # InputError and DataError speak of the option of trainings
            raise PackError(str(error).replace("--data", "--input", 1)) from error
        count = min(plan.pictures, len(shards))
        say(f"reading {count} pictures of {plan.input}")
        return Subjects(aligned_BCHW=to_float(shards.pictures(torch.arange(count))).to(pack.device), about=plan.input)
    if "landmarks" not in pack.info.networks:
        raise PackError(f"pack {pack.path} has no landmarks to align portraits with: name shards of its domain by --input")
    say(f"making and aligning {plan.pictures} held-out portraits")
    return Subjects(aligned_BCHW=held_out(pack, plan.pictures, style=plan.style).aligned_BCHW, about=plan.style)


def keep(folder: Path, figures: Mapping[str, object]) -> None:
    """Write what is known so far: the next method may take hours, or fail."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")


def _check_attribute(pack: Pack, attribute: str) -> None:
    """Raise PackError for an attribute that the pack's classifier, where it has one, does not know."""
    if "attributes" in pack.info.networks and attribute not in pack.attributes().names:
        raise PackError(f"--attribute {attribute}: the pack's classifier knows {', '.join(pack.attributes().names)}")


def _ablations(pack: Pack, plan: Plan) -> dict[str, dict[str, Inverter]]:
    """Return the inverters of every ablation that is asked for. Raises PackError."""
    for name in plan.ablations:
        if name not in ABLATIONS:
            raise PackError(f"--ablations {name}: expected one of {', '.join(ABLATIONS)}")
    variants = {label: Pack.load(path, device=pack.device) for label, path in plan.variants.items()}
    check_variants(pack, variants)
    context = Context(pack=pack, settings=plan.settings, variants=variants)
    return {name: ABLATIONS[name].rows(context) for name in plan.ablations}


def _adapted_pack(pack: Pack, plan: Plan) -> Pack | None:
    """Return the pack with the fine-tuned generator, where there is one. Raises PackError."""
    if plan.adapted is None:
        return None
    if not plan.adapted_text:
        raise PackError("--adapted_text: missing; name the style of --adapted, such as 'a cartoon of a face'")
    lacking = [name for name in ("identity", "clip") if name not in pack.info.networks]
    if lacking:
        raise PackError(f"--adapted: pack {pack.path} lacks {lacking[0]}, which it is measured with")
    adapted = Pack.load(plan.adapted, device=pack.device)
    check_adapted(pack, adapted)
    return adapted


def _adapted(judge: Judge, plan: Plan, data: Subjects, made: Mapping[str, Inverted], adapted: Pack) -> dict[str, Adapted]:
    """Return what the fine-tuned generator makes of every method that has offsets."""
    return {
        f"{label}{how}": adapt(
            judge, one, data.aligned_BCHW[: len(one.image_NCHW)], adapted=adapted, text=plan.adapted_text, strength=strength
        )
        for label, one in made.items()
        if one.states[0].offsets
        for how, strength in ADAPTED_STRENGTHS.items()
    }


def _at_equal(curve: Sequence[Numbers]) -> dict[str, float | None]:
    """Return the identity similarity at changes that methods are compared at."""
    return {f"{change:+g}": inversion_suite.at_change(curve, change) for change in CHANGES}


def _curves(judge: Judge, plan: Plan, data: Subjects, made: Mapping[str, Inverted], *, say: Say) -> dict[str, dict[str, list[Numbers]]]:
    """Return the editability of the chosen methods by kind of direction, on the pictures that all of them inverted."""
    chosen = {label: one for label, one in made.items() if name_of(label) in CURVED}
    if not chosen or judge.identity is None:
        return {}
    if "attributes" not in judge.pack.info.networks:
        say("no editability curves: the pack has no attribute classifier to measure an edit with")
        return {}
    n = min(len(one.image_NCHW) for one in chosen.values())
    found: dict[str, dict[str, list[Numbers]]] = {}
    for kind in METHODS:
        direction = attribute_direction(judge.pack, plan.attribute, method=kind, labelled=plan.labelled)
        unit = spread(judge.pack, direction)
        say(f"editing {n} portraits of {', '.join(chosen)} along {plan.attribute} ({kind})")
        found[f"{plan.attribute} ({kind})"] = {
            label: inversion_suite.editability(
                judge, first(one, n), data.aligned_BCHW[:n], direction=direction, amounts=[unit * amount for amount in AMOUNTS],
                attribute=plan.attribute,
            )
            for label, one in chosen.items()
        }  # fmt: skip
    return found


def first(inverted: Inverted, n: int) -> Inverted:
    """Return the first `n` pictures of what a method made."""
    states, left = [], n
    for state in inverted.states:
        if left > 0:
            states.append(state.slice(0, min(left, len(state))))
            left -= len(state)
    return Inverted(states=states, image_NCHW=inverted.image_NCHW[:n], seconds=inverted.seconds)
