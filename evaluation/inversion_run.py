"""The inversion suite from a pack to figures and a page: which methods, on how many pictures, with which curves and ablations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from evaluation import inversion_page, inversion_suite
from evaluation.held_out import HeldOut, held_out
from evaluation.inversion_suite import Inverted, Method, Numbers, Say
from models.directions import Directions, ganspace, interfacegan, sefa
from models.inverter_names import OPTIMISERS, inverter_names
from models.pack import Pack

CURVED = ("e4e", "wplus_projection", "hyperstyle", "restyle_e4e", "pti", "gani")
"""Methods of the editability curve, where the pack has them."""
AMOUNTS = (-6.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 6.0)
"""Steps along a direction, in standard deviations of W along it."""
DRIFT_PICTURES = 8
OTHER_DIRECTIONS, OTHER_PICTURES = 3, 24


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
    labelled: int = 4000
    """Generated pictures whose labels give the attribute's direction."""
    style: str = "photo"

    def methods(self, pack: Pack) -> list[Method]:
        """Return the methods, all that the pack has where none are named. Raises PackError for a name that it lacks."""
        names = list(self.inverters) or inverter_names(pack.info)
        return [Method(label=name, inverter=name, settings=self.settings.get(name, {})) for name in names]


def measure(pack: Pack, plan: Plan, folder: Path, *, say: Say) -> tuple[dict[str, object], list[Path]]:
    """Return all figures of the suite and the files of the page that it wrote. Raises PackError."""
    methods = plan.methods(pack)
    for method in methods:
        pack.inverter(method.inverter, method.settings)  # a wrong setting ends the run before its first hour
    say(f"making and aligning {plan.pictures} held-out portraits")
    data = held_out(pack, plan.pictures, style=plan.style)
    rows, made, drifts = dict[str, Numbers](), dict[str, Inverted](), dict[str, float]()
    for method in methods:
        images = data.aligned_BCHW[: plan.optimised if method.inverter in OPTIMISERS else None]
        table, inverted = inversion_suite.table(pack, [method], images, say=say)
        rows, made = rows | table, made | inverted
        state = inverted[method.label].states[0]
        if state.offsets:
            few = state.slice(0, min(DRIFT_PICTURES, len(state)))
            drifts[method.label] = float(inversion_suite.drift(pack, few, latents=plan.others).mean())
    curves = {plan.attribute: _curves(pack, plan, data, made, say=say)}
    findings = inversion_page.Findings(
        pack=f"{pack.info.name}, {plan.style}", features={"lpips": inversion_suite.Judge(pack).lpips.description}, table=rows,
        reconstructions={label: one.image_NCHW[: inversion_page.SHEET_ROWS] for label, one in made.items()},
        wanted_NCHW=data.aligned_BCHW[: inversion_page.SHEET_ROWS], curves=curves, drift=drifts,
    )  # fmt: skip
    figures: dict[str, object] = {
        "pictures": len(data.found), "features": dict(findings.features), "table": rows, "drift": drifts, "editability": curves,
        "plan": asdict(plan), "directions": _other_directions(pack, data, made),
    }  # fmt: skip
    return figures, inversion_page.write(findings, folder)


def _curves(pack: Pack, plan: Plan, data: HeldOut, made: Mapping[str, Inverted], *, say: Say) -> dict[str, list[Numbers]]:
    """Return the editability of the chosen methods on the pictures that all of them inverted."""
    chosen = {label: one for label, one in made.items() if label in CURVED}
    if not chosen:
        return {}
    direction = _direction(pack, plan)
    unit = spread(pack, direction)
    n = min(len(one.image_NCHW) for one in chosen.values())
    say(f"editing {n} portraits of {', '.join(chosen)} along {plan.attribute}")
    return {
        label: inversion_suite.editability(
            pack, first(one, n), data.aligned_BCHW[:n], direction=direction, amounts=[unit * amount for amount in AMOUNTS],
            attribute=plan.attribute,
        )
        for label, one in chosen.items()
    }  # fmt: skip


def _direction(pack: Pack, plan: Plan) -> Directions:
    """Return InterFaceGAN's direction of the attribute, from the labels that the pack's own classifier gives."""
    net = pack.attributes()
    column = net.names.index(plan.attribute)
    return interfacegan(pack.generator(), lambda image: net.probabilities(image)[:, column], samples=plan.labelled)


@torch.no_grad()
def spread(pack: Pack, direction: Directions, *, samples: int = 1000) -> float:
    """Return the standard deviation of W along a direction."""
    generator = pack.generator()
    z = torch.randn(samples, generator.style_dim, generator=torch.Generator().manual_seed(1))
    w = generator.mapping(z.to(generator.input.input))
    return float((w @ direction.vectors_KD[0].to(w)).std())


def first(inverted: Inverted, n: int) -> Inverted:
    """Return the first `n` pictures of what a method made."""
    states, left = [], n
    for state in inverted.states:
        if left > 0:
            states.append(state.slice(0, min(left, len(state))))
            left -= len(state)
    return Inverted(states=states, image_NCHW=inverted.image_NCHW[:n], seconds=inverted.seconds)


def _other_directions(pack: Pack, data: HeldOut, made: Mapping[str, Inverted]) -> dict[str, dict[str, Numbers]]:
    """Return, for the first directions of GANSpace and SeFa, the attribute that two deviations change most and what of the person stays."""
    names, found = pack.attributes().names, dict[str, dict[str, Numbers]]()
    kinds = {"ganspace": ganspace(pack.generator(), n=OTHER_DIRECTIONS), "sefa": sefa(pack.generator(), n=OTHER_DIRECTIONS)}
    for label, one in made.items():
        if label not in CURVED:
            continue
        few = first(one, OTHER_PICTURES)
        images = data.aligned_BCHW[: len(few.image_NCHW)]
        for kind, directions in kinds.items():
            for which in range(OTHER_DIRECTIONS):
                single = Directions(vectors_KD=directions.vectors_KD[which : which + 1], slots=directions.slots)
                before, _ = inversion_suite.effect(pack, few, images, direction=single, amount=0.0)
                after, same = inversion_suite.effect(pack, few, images, direction=single, amount=2 * spread(pack, single))
                strongest = int((after - before).abs().argmax())
                numbers = {"change": float((after - before)[strongest]), "identity": same}
                found.setdefault(label, {})[f"{kind} {which}: {names[strongest]}"] = numbers
    return found
