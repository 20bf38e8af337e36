"""Suite `gates`: what the gates of a recipe let through, judged by networks that did not gate, and searched against fixed strengths.

The edits of the recipe are tried on held-out portraits, in this process, by the code that `jobs/augment_dataset.py` runs on its workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from augmentation.choice import chance
from augmentation.edits import Edit, Gates, Strength
from augmentation.realism import Realism, of_generator
from augmentation.recipe import Recipe
from augmentation.trial import Verdict, Want, try_edits
from augmentation.window import Window
from evaluation.held_out import HeldOut, held_out
from evaluation.pack_suite import eligible
from models.pack import Pack
from pipeline.attributes import DECISION
from pipeline.feed import Ready
from pipeline.images import ImageHWC
from pipeline.invert import to_pixels, to_tensor
from pipeline.methods import Methods, load_methods
from pipeline.sample import Sample
from pipeline.stage_clock import StageClock

NAME = "gates"
PICTURES = 200
MORE = 2.5
"""Portraits made for each that is wanted, since an edit is tried on those alone who do not show it yet."""
FACTORS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
"""Fixed strengths that the searched ones are held against, as multiples of the instruction's own."""
OPEN = Gates(success=None, identity=None, collateral=None, realism=None)
AT_ONCE = 64
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What became of one edit of one portrait: the pack's verdict, and what the judge sees, None where nobody can tell."""

    portrait: int
    factor: float
    reason: str
    certainty: float
    success: bool
    same_person: bool


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share with its 95 % interval (Wilson)."""

    yes: int
    of: int

    def plain(self) -> dict[str, float | int | None]:
        """Return it as JSON has it."""
        if not self.of:
            return {"of": 0, "share": None, "low": None, "high": None}
        interval = binomtest(self.yes, self.of).proportion_ci(0.95, method="wilson")
        return {"of": self.of, "share": self.yes / self.of, "low": float(interval.low), "high": float(interval.high)}


@dataclass(kw_only=True, eq=False)
class Tries:
    """All tries of one edit: by the recipe, and at each fixed strength; the same portraits in the same order."""

    edit: str
    target: float
    """Certainty that the success gate asks."""
    recipe: list[Judged] = field(default_factory=list)
    fixed: dict[float, list[Judged]] = field(default_factory=dict)


class OtherJudge:
    """The attribute classifier and the identity network of another pack, trained from other seeds on other people."""

    def __init__(self, pack: Pack) -> None:
        self.attributes, self.identity = pack.attributes(), pack.identity()
        self.threshold = pack.info.networks["identity"].numbers["threshold_far1"]

    @torch.no_grad()
    def see(self, source_BCHW: Tensor, verdicts: Sequence[Verdict], portraits: Sequence[int]) -> list[Judged]:
        """Judge pictures that were made, against the aligned pictures that they were made from."""
        made_BCHW = to_tensor([one.made.picture_HWC for one in verdicts], device=source_BCHW.device)
        same = (self.identity(made_BCHW) * self.identity(source_BCHW)).sum(1) >= self.threshold
        seen = (self.attributes.probabilities(made_BCHW) > DECISION).cpu()
        found = []
        for row, (verdict, portrait) in enumerate(zip(verdicts, portraits, strict=True)):
            expects = verdict.want.edit.expects
            success = all(bool(seen[row, self.attributes.names.index(name)]) == wanted for name, wanted in expects.items())
            found.append(
                Judged(portrait=portrait, factor=verdict.made.tried.factor, reason=verdict.reason,
                       certainty=verdict.made.measured.certainty or 0.0, success=success, same_person=bool(same[row]))
            )  # fmt: skip
        return found


def measure(
    pack: Pack, judge: Pack, recipe: Recipe, *, seed: int, say: Say, inverter: str, editor: str, pictures: int = PICTURES
) -> dict[str, object]:  # fmt: skip
    """Return yields, the judge's verdicts, and searched against fixed strengths, for every edit and in all."""
    other = OtherJudge(judge)
    methods = load_methods(pack, inverter=inverter, editor=editor, device=pack.device, instructions=recipe.instructions)
    n = round(pictures * MORE)
    say(f"making and aligning {n} held-out portraits")
    data = held_out(pack, n, seed=seed)
    say("drawing pictures of the generator's own, for the gate of realism")
    realism = of_generator(methods)
    bench = Bench(data=data, other=other, methods=methods, realism=realism, seed=recipe.seed)
    found = []
    for edit in recipe.edits:
        found.append(bench.tries(edit, lacking(data, edit)[:pictures]))
        say(_line(found[-1]))
    return {"portraits": len(data.found), "inverter": inverter, "editor": editor, **figures(found)}


def lacking(data: HeldOut, edit: Edit) -> list[int]:
    """Return the portraits that do not show, by truth, what an edit asks for, and on which it could be seen."""
    rows: list[int] = eligible(data, edit.as_one()).tolist()
    gone = [name for name, wanted in edit.expects.items() if not wanted]
    return [row for row in rows if not gone or any(bool(data.has(name)[row]) for name in gone)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """Portraits, the networks that edit and gate, and those that judge."""

    data: HeldOut
    other: OtherJudge
    methods: Methods
    realism: Realism
    seed: int

    def tries(self, edit: Edit, rows: Sequence[int]) -> Tries:
        """Return all tries of an edit of some portraits."""
        found = Tries(edit=edit.name, target=edit.gates.success or DECISION, fixed={factor: [] for factor in FACTORS})
        for start in range(0, len(rows), AT_ONCE):
            part = list(rows[start : start + AT_ONCE])
            samples = [_ready(row, picture) for row, picture in zip(part, to_pixels(self.data.aligned_BCHW[part]), strict=True)]
            window = Window(samples, self.methods, realism=self.realism, clock=StageClock())
            found.recipe += self._judged(edit, window, part)
            for factor in FACTORS:
                fixed = replace(edit, strength=Strength(low=factor, high=factor), gates=OPEN)
                found.fixed[factor] += self._judged(fixed, window, part)
        return found

    def _judged(self, edit: Edit, window: Window, rows: Sequence[int]) -> list[Judged]:
        def factor(want: Want) -> float:
            return want.edit.strength.drawn(chance(self.seed, rows[want.row], want.edit.name))

        wants = [Want(row=place, edit=edit, also={}) for place in range(len(rows))]
        verdicts = try_edits(window, wants, factor_of=factor, same_person=self.methods.scorer.same_person_threshold)
        return self.other.see(self.data.aligned_BCHW[list(rows)], verdicts, rows)


def _ready(row: int, picture: ImageHWC) -> Ready:
    sample = Sample(key=f"{row:06d}", shard="held-out", index=row, members={}, image_ext="png")
    return Ready(sample=sample, aligned_HWC=picture)


def figures(found: Sequence[Tries]) -> dict[str, object]:
    """Return all numbers of all edits."""
    edits = {one.edit: {**gated(one.recipe), "strengths": compared([one])} for one in found}
    everything = [judged for one in found for judged in one.recipe]
    return {"edits": edits, "overall": {**gated(everything), "strengths": compared(found)}}


def gated(tries: Sequence[Judged]) -> dict[str, object]:
    """Return the yield of some tries, and what the judge says of those that were kept and those that were not."""
    kept, lost = [one for one in tries if not one.reason], [one for one in tries if one.reason]
    reasons = sorted({one.reason for one in lost})
    return {
        "yield": Share(yes=len(kept), of=len(tries)).plain(),
        "rejected": {reason: sum(one.reason == reason for one in lost) for reason in reasons},
        "kept_success": Share(yes=sum(one.success for one in kept), of=len(kept)).plain(),
        "kept_same_person": Share(yes=sum(one.same_person for one in kept), of=len(kept)).plain(),
        "rejected_good": Share(yes=sum(one.success and one.same_person for one in lost), of=len(lost)).plain(),
        "median_factor": float(np.median([one.factor for one in kept])) if kept else None,
    }


def compared(found: Sequence[Tries]) -> dict[str, object]:
    """Hold the recipe's strengths against every fixed one, on the same portraits.

    Where the search reached nothing, the edit at the instruction's own strength stands for it. `fixed` has, by factor, the share that
    reaches the target and the share of the same person by the judge; `best_fixed` is the fixed strength that reaches most among those
    with as many of the same person, or read between two strengths where the curve passes that rate.
    """
    searched = [_or_own(one, place) for one in found for place in range(len(one.recipe))]
    targets = [one.target for one in found for _ in one.recipe]
    reach = [judged.certainty >= target for judged, target in zip(searched, targets, strict=True)]
    curve = {}
    for factor in FACTORS:
        tries = [judged for one in found for judged in one.fixed[factor]]
        reached = sum(judged.certainty >= target for judged, target in zip(tries, targets, strict=True))
        curve[factor] = (sum(judged.same_person for judged in tries) / max(1, len(tries)), reached / max(1, len(tries)))
    same = sum(judged.same_person for judged in searched) / max(1, len(searched))
    return {
        "searched": {"reached": Share(yes=sum(reach), of=len(reach)).plain(), "same_person": same},
        "fixed": {f"{factor:g}": {"same_person": a, "reached": b} for factor, (a, b) in curve.items()},
        "best_fixed_at_equal_same_person": at_rate([*curve.values()], same),
    }


def _or_own(one: Tries, place: int) -> Judged:
    judged = one.recipe[place]
    return judged if judged.certainty >= one.target else one.fixed[1.0][place]


def at_rate(curve: Sequence[tuple[float, float]], rate: float) -> float:
    """Return the most that a curve of (same person, reached) points, joined by lines, reaches at a rate of at least `rate`; else 0."""
    best = max((reached for same, reached in curve if same >= rate), default=0.0)
    for (same_a, reached_a), (same_b, reached_b) in zip(curve, curve[1:], strict=False):
        if min(same_a, same_b) <= rate <= max(same_a, same_b) and same_a != same_b:
            best = max(best, reached_a + (reached_b - reached_a) * (rate - same_a) / (same_b - same_a))
    return best


def _line(one: Tries) -> str:
    numbers = gated(one.recipe)
    parts = {name: numbers[name]["share"] for name in ("yield", "kept_success", "kept_same_person")}  # type: ignore[index]
    shown = ", ".join(f"{name.replace('_', ' ')} {share:.3f}" if share is not None else f"{name} -" for name, share in parts.items())
    return f"{one.edit}: {len(one.recipe)} portraits, {shown}, rejected {numbers['rejected']}"
