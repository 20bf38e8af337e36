"""The editing suite from a pack and a plan to figures, sheets and a page; rows are kept until the run has ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from evaluation import editing_page, editing_sheets, samples
from evaluation.editing_checks import Check, checks, explained
from evaluation.editing_page import Findings, Sheet
from evaluation.editing_plan import ATTRIBUTES, PAIRS, STYLES, Plan, Prepared, Say, check_texts, group, prepare
from evaluation.editing_suite import COLUMNS, Inversions, Judge, Row, measure_row
from evaluation.held_out import HeldOut, held_out
from evaluation.kept_rows import KeptRows
from evaluation.run_tracking import editing_metrics
from evaluation.samples import Samples, SampleTable
from evaluation.standing import VERDICT, VERDICT_FILE, Standing, judged_in
from models.instruction import Instruction
from models.pack import Pack, PackError
from models.stylegan2 import Generator

FIGURES = "figures.json"
MORE = 1.5
"""Portraits made for each one wanted, since some show already what is asked for."""
FEW = 4
"""Portraits on the sheets of one method, and layers' offsets are means over them."""
TITLES: Mapping[str, tuple[str, str]] = {
    ATTRIBUTES: ("One attribute", "Under each instruction the same people for every method."),
    PAIRS: ("Two attributes at once (HyperEditor, Figure 20)", "One instruction asks for both."),
    STYLES: ("Styles that the generator never saw", "Latents alone cannot reach them."),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Ready:
    """A plan with its networks loaded: rows by label, the generators that offsets are tried on, and the independent judge's pack."""

    rows: Mapping[str, Prepared]
    others: Mapping[str, Generator]
    judge: Pack | None = None


def ready(pack: Pack, plan: Plan, *, say: Say) -> Ready:
    """Load what a plan needs: a wrong name ends a run before its first hour. Raises PackError or InstructionError."""
    names = [one.name for one in plan.all_instructions]
    for label, method in plan.methods.items():
        if method.worse_on and method.worse_on not in COLUMNS:
            raise PackError(f"row {label!r}: worse_on {method.worse_on!r}: expected one of {', '.join(sorted(COLUMNS))}, or '' for none")
    found = Ready(rows=prepare(pack, plan, say=say), others=_others(pack, plan), judge=_judge(pack, plan))
    if found.judge is not None:
        check_texts(plan.all_instructions, found.judge)
    for what, wanted in (("fid", plan.fid), ("interpolated", plan.interpolated)):
        missing = [name for name in wanted if name not in names]
        if missing:
            say(f"{what}: {missing[0]!r} is not among the instructions, so its column or sheet stays empty")
    return found


def measure(
    pack: Pack, plan: Plan, folder: Path, say: Say = print, *, loaded: Ready | None = None, standing: Standing | None = None
) -> tuple[dict[str, object], list[Path]]:
    """Return all figures of the suite and the files of the page that it wrote. Raises PackError or InstructionError."""
    loaded = loaded or ready(pack, plan, say=say)
    n = max(FEW, round(plan.pictures * MORE))
    say(f"making and aligning {n} held-out portraits")
    data = held_out(pack, n, seed=plan.seed)
    judge = Judge(pack, plan.all_instructions, independent=loaded.judge)
    session = Session(pack=pack, plan=plan, data=data, chosen=_chosen(data, plan, say=say), judge=judge)
    measured, kept = dict[str, Row](), KeptRows.of(folder, pack=pack, plan=plan, judge=loaded.judge, features=judge.scorer.features)
    for label, prepared in loaded.rows.items():
        measured[label] = session.row(prepared, kept, say=say)
        _keep(folder, session.figures(measured, []))
    done = explained(checks(measured), plan.reasons)
    for check in done:
        say(f"{'holds' if check.holds else 'DOES NOT HOLD'}: {check.claim}: {check.numbers}")
    figures = session.figures(measured, done)
    verdict = standing.verdict(session.samples) if standing is not None else None
    figures[VERDICT] = verdict.plain() if verdict is not None else None
    drawn = standing.drawn(editing_metrics(figures), judged_in(figures)) if standing is not None else {}
    findings = Findings(
        pack=pack.info.name, verdict=verdict, trends=drawn, device=plan.device, features=session.judge.scorer.features, rows=measured,
        checks=done, fid=plan.fid, targets={one.name: one.target for one in plan.all_instructions},
        sheets=session.sheets(loaded.rows, loaded.others, say=say),
    )  # fmt: skip
    figures |= session.figures(measured, done)  # drawing the sheets found the offsets
    _keep(folder, figures)
    files = [*editing_page.write(findings, folder), folder / FIGURES, samples.write(session.samples, folder / samples.FILE)]
    if verdict is not None:
        files.append(folder / VERDICT_FILE)
        files[-1].write_text(verdict.explanation() + "\n")
    return figures, files


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """Portraits and judges of one run, the inversions found so far, and the pictures kept for the sheets by label and instruction."""

    pack: Pack
    plan: Plan
    data: HeldOut
    chosen: Mapping[str, Sequence[int]]
    judge: Judge
    inversions: dict[str, Inversions] = field(default_factory=dict)
    shown: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    sizes: dict[str, dict[int, float]] = field(default_factory=dict)
    samples: SampleTable = field(default_factory=dict)

    def row(self, prepared: Prepared, kept: KeptRows, *, say: Say) -> Row:
        """Return what a method did, now or in the run that was stopped."""
        label, inversions = prepared.label, self.inverted(prepared)
        found = kept.load(prepared)
        if found is None:
            say(f"{label}: {prepared.method.editor} on {prepared.method.inverter}, {len(prepared.instructions)} instructions")
            found = measure_row(prepared, self.judge, inversions, self.chosen, say=say, shown=editing_sheets.PEOPLE)
            kept.save(prepared, found)
        else:
            say(f"{label}: measured before the run was stopped")
        self.shown[label] = dict(found.shown)
        for name, columns in found.columns.items():
            rows = self.chosen[name][: prepared.pictures]
            keys = tuple(samples.key_of(self.plan.seed, len(self.data.truth), self.data.found[row]) for row in rows)
            values = {column: values.double().numpy() for column, values in columns.items()}
            self.samples[label, name] = Samples(group=found.row.cells[name].group, keys=keys, columns=values)
        return found.row

    def inverted(self, prepared: Prepared) -> Inversions:
        """Return the inversions that rows with this inverter and these settings share."""
        method = prepared.method
        key = method.inverter + (json.dumps(method.inverter_settings, sort_keys=True) if method.inverter_settings else "")
        if key not in self.inversions:
            self.inversions[key] = Inversions(prepared.inverter, self.pack.generator(), self.data.aligned_BCHW)
        return self.inversions[key]

    def figures(self, rows: Mapping[str, Row], done: Sequence[Check]) -> dict[str, object]:
        """Return everything that was measured, in the types of JSON."""
        return {
            "pack": self.pack.sha256, "device": self.plan.device, "features": dict(self.judge.scorer.features),
            "portraits": {name: len(rows) for name, rows in self.chosen.items()},
            "methods": {label: asdict(row) for label, row in rows.items()}, "orders": [asdict(check) for check in done],
            "offsets": {name: {str(layer): size for layer, size in by_layer.items()} for name, by_layer in self.sizes.items()},
            "plan": asdict(self.plan),
        }  # fmt: skip

    def sheets(self, rows: Mapping[str, Prepared], others: Mapping[str, Generator], *, say: Say) -> dict[str, Sheet]:
        """Return the sheets of all methods, and those of the first HyperEditor row."""
        say("drawing")
        found = {}
        main = {label: row for label, row in rows.items() if row.method.ablates is None and row.method.sweep is None}
        for kind, (title, about) in TITLES.items():
            instructions = [one for one in self.plan.all_instructions if group(one) == kind]
            if instructions:
                found[f"sheet_{kind}"] = Sheet(title=title, about=about, data=self._overview(instructions, [*main]))
        singles = [one for one in self.plan.all_instructions if group(one) == ATTRIBUTES]
        if len(main) < len(rows) and singles:
            bases = {row.method.ablates for row in rows.values()}
            labels = [label for label in rows if label not in main or label in bases]
            title, about = (
                "Ablations (HyperEditor, Figures 8 and 28)",
                "The whole method, what was left out, and other selections of layers.",
            )
            found["sheet_ablations"] = Sheet(title=title, about=about, data=self._overview(singles, labels))
        ours = next((row for row in main.values() if row.kind == "hypereditor"), None)
        return found | (self._of_one(ours, others) if ours is not None else {})

    def _overview(self, instructions: Sequence[Instruction], labels: Sequence[str]) -> bytes:
        before: dict[str, dict[str, Tensor]] = {"input": {}}
        short = [key.partition("{")[0] for key in self.inversions]
        for one in instructions:
            few = list(self.chosen[one.name][: editing_sheets.PEOPLE])
            before["input"][one.name] = self.data.aligned_BCHW[few].cpu()
            for key, inversions in self.inversions.items():
                name = key.partition("{")[0]
                label = f"inverted: {name if short.count(name) == 1 else key}"
                before.setdefault(label, {})[one.name] = inversions.rows(few).made_BCHW.cpu()
        return editing_sheets.overview(instructions, before, {label: self.shown[label] for label in labels})

    def _of_one(self, row: Prepared, others: Mapping[str, Generator]) -> dict[str, Sheet]:
        by_name = {one.name: one for one in row.instructions}
        singles = [one for one in row.instructions if group(one) == ATTRIBUTES]
        few = list((self.chosen[singles[0].name] if singles else range(len(self.data.found)))[:FEW])
        subject = editing_sheets.Subject(editor=row.editor, inversion=self.inverted(row).rows(few), generator=self.pack.generator())
        found: dict[str, Sheet] = {}

        def add(name: str, title: str, about: str, make: Callable[[], bytes]) -> None:
            found[name] = Sheet(title=f"{title}", about=f"{row.label}. {about}", data=make())

        if len(self.plan.interpolated) == 2 and all(name in by_name for name in self.plan.interpolated):
            a, b = (by_name[name] for name in self.plan.interpolated)
            add(
                "interpolation", "Between two edits (HyperEditor, Figure 22)", f"η Δ({a.name}) + (1 - η) Δ({b.name}).",
                lambda: editing_sheets.interpolation(subject, a, b),
            )  # fmt: skip
        if singles:
            about = "The same network told to go from the target to the source."
            add("reversal", "Source and target swapped (HyperEditor, Figure 24)", about, lambda: editing_sheets.reversal(subject, singles))
        if others and singles:
            about = "The offsets that were made for the pack's generator on generators of other domains."
            title = "Offsets on other generators (HyperEditor, Figure 7)"
            add("transfer", title, about, lambda: editing_sheets.transferred(subject, others, singles))
        self.sizes.update(editing_sheets.offset_means(subject, singles))
        if any(self.sizes.values()):
            title, about = "Offsets by layer (HyperEditor, Figure 9)", f"Mean size over {len(few)} portraits."
            add("offsets", title, about, lambda: editing_sheets.offset_plot(self.sizes))
        return found


def _chosen(data: HeldOut, plan: Plan, *, say: Say) -> dict[str, list[int]]:
    """Return the portraits of every instruction: those that do not show yet what it asks for. Raises PackError where there are none."""
    from evaluation.pack_suite import eligible  # takes torchmetrics along

    chosen = {}
    for one in plan.all_instructions:
        rows = eligible(data, one)[: plan.pictures].tolist()
        if not rows:
            raise PackError(f"--pictures {plan.pictures}: none of {len(data.found)} portraits lacks what {one.name!r} asks for; take more")
        if len(rows) < plan.pictures:
            say(f"{one.name}: {len(rows)} portraits instead of {plan.pictures}: the others show already what it asks for, or hide it")
        chosen[one.name] = rows
    return chosen


def _others(pack: Pack, plan: Plan) -> dict[str, Generator]:
    """Return the generators that offsets are tried on. Raises PackError for one of another shape."""
    shape = [tuple(tensor.shape) for tensor in pack.generator().parameters()]
    found = {}
    for label, path in plan.transfer.items():
        found[label] = Pack.load(path, device=pack.device).generator()
        if [tuple(tensor.shape) for tensor in found[label].parameters()] != shape:
            raise PackError(f"transfer {label!r}: {path} has a generator of another shape than {pack.path}; offsets would not fit")
    return found


def _judge(pack: Pack, plan: Plan) -> Pack | None:
    """Return the pack that judges beside the measured one. Raises PackError where it cannot, or is not another."""
    if plan.judge is None:
        return None
    judge = Pack.load(plan.judge, device=pack.device)
    has = judge.info.networks
    if "clip" not in has:
        raise PackError(f"--judge {plan.judge}: lacks clip; it has to have a CLIP of its own, and may have attributes")
    if has["clip"].sha256 == pack.info.networks["clip"].sha256:
        raise PackError(f"--judge {plan.judge}: its clip is that of {pack.path}; train another with another --settings.seed")
    known = judge.attributes().names if "attributes" in has else pack.attributes().names
    unknown = sorted({name for one in plan.all_instructions for name in one.expects} - set(known))
    if unknown:
        raise PackError(f"--judge {plan.judge}: its classifier does not know {unknown[0]!r}, which is expected of an edit")
    return judge


def _keep(folder: Path, figures: Mapping[str, object]) -> None:
    """Write what is known so far: the next row may take hours, or fail."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
