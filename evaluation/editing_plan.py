"""What the editing suite measures: a row per method, on which instructions and pictures; checked as a whole before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

import yaml
from torch import nn

from evaluation.held_out import HELD_OUT_SEED
from models.editor_names import METHODS, TEXT_OPTIMISERS, problem
from models.editors import Editor
from models.hypereditor import HyperEditor
from models.instruction import Instruction, InstructionError, load_instructions
from models.inversion import Inversion
from models.inverter_names import OPTIMISERS
from models.inverters import Inverter
from models.pack import Pack, PackError, PackInfo
from models.state import GeneratorState

NEEDED = ("generator", "clip", "identity", "attributes", "landmarks")
ENCODERS = ("e4e", "w_encoder", "psp")
ATTRIBUTES, STYLES, PAIRS = "attributes", "styles", "pairs"
STYLE_PREFIX = "style_"
SHARED = frozenset({"generator", "clip", "attributes", "identity", *ENCODERS})
OPTIONAL: Mapping[str, frozenset[str]] = {"clipinverter": frozenset({"clip_remapper"})}
"""Networks that an editor uses where the pack has them."""
Say = Callable[[str], None]
N = TypeVar("N", int, float)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row: an editor on an inverter's states.

    `strength` is that of all instructions but those in `strengths`; None leaves each its own. `pack` holds the editor where it was trained
    apart, on the same generator, and `packs` one for each instruction, which are then all that the row follows. `wordings` is a file that
    says instructions, by name, in other words. `ablates` names the row that this one leaves something out of, and `worse_on` the figure
    that it should be worse on for that (empty where nobody says so). `sweep` is the lambda_std that a row of HyperEditor Table 3 was
    trained with. `instructions` are all where empty.
    """

    editor: str = "hypereditor"
    inverter: str = "e4e"
    settings: Mapping[str, object] = field(default_factory=dict)
    inverter_settings: Mapping[str, object] = field(default_factory=dict)
    strength: float | None = None
    strengths: Mapping[str, float] = field(default_factory=dict)
    pack: str | None = None
    packs: Mapping[str, str] = field(default_factory=dict)
    wordings: str | None = None
    ablates: str | None = None
    worse_on: str = "ama"
    sweep: float | None = None
    instructions: Sequence[str] = ()

    def scaled(self, instruction: Instruction) -> Instruction:
        """Return the instruction as strong as this method needs it. Raises InstructionError."""
        strength = self.strengths.get(instruction.name, self.strength)
        return instruction if strength is None else replace(instruction, strength=strength)

    def asked(self, instructions: Sequence[Instruction]) -> list[Instruction]:
        """Return those of the instructions that the row is measured on, in its words. Raises InstructionError."""
        chosen = self.instructions or tuple(self.packs)
        wanted = [one for one in instructions if not chosen or one.name in chosen]
        if self.wordings is None:
            return wanted
        said = {one.name: one for one in load_instructions(self.wordings)}
        return [replace(one, source=said[one.name].source, target=said[one.name].target) for one in wanted if one.name in said]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the suite measures; `pictures` portraits per instruction, `optimised` for editors that optimise for every picture."""

    methods: Mapping[str, Method]
    instructions: Sequence[Instruction]
    pairs: Sequence[Instruction] = ()
    """Instructions for two attributes at once."""
    pictures: int = 200
    optimised: int = 24
    fid: Sequence[str] = ("smile", "old")
    """The instructions of FID-0 and FID-1."""
    interpolated: Sequence[str] = ("smile", "old")
    judge: str | None = None
    """Pack with a CLIP, and where it has one an attribute classifier, that no editor was trained with: they judge beside the pack's."""
    transfer: Mapping[str, str] = field(default_factory=dict)
    """Packs with other generators of the same shape, by what they show, that HyperEditor's offsets are tried on."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why claims do not hold, by words of theirs: the page says it beside the numbers."""
    device: str = "cpu"
    """What the pack's device is called."""
    seed: int = HELD_OUT_SEED

    @property
    def all_instructions(self) -> tuple[Instruction, ...]:
        """Return the instructions and the pairs."""
        return (*self.instructions, *self.pairs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A row with its networks loaded and its instructions scaled; `kind` is the network's, empty for a method without one of its own."""

    label: str
    method: Method
    editor: Editor
    inverter: Inverter
    instructions: tuple[Instruction, ...]
    pictures: int
    kind: str = ""
    packs: tuple[str, ...] = ()
    """Hashes of the packs that hold the editor."""
    networks: tuple[str, ...] = ()
    """What the editor needs beyond what it shares with others."""
    parameters: int | None = None
    heads: int | None = None
    """Parameters of a hypernetwork's heads alone: what HyperEditor's tables count, whose smallest is smaller than its trunk."""
    training_s: float | None = None


class EditorPerInstruction:
    """An editor of its own for every instruction, by name."""

    def __init__(self, name: str, editors: Mapping[str, Editor]) -> None:
        self.name = name
        self.editors = editors

    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state that the instruction's editor makes."""
        return self.editors[instruction.name].edit(inversion, instruction)


def group(instruction: Instruction) -> str:
    """Return `styles` for what asks for a style, `pairs` for what asks for two attributes or more, else `attributes`."""
    if any(name.startswith(STYLE_PREFIX) for name in instruction.expects):
        return STYLES
    return PAIRS if len(instruction.expects) > 1 else ATTRIBUTES


def load_plan(path: str | Path, *, instructions: Sequence[Instruction], **options: object) -> Plan:
    """Read the rows, pairs and sheets of a plan from YAML, such as configs/evaluate/editing.yaml. Raises PackError or InstructionError."""
    try:
        entries = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PackError(f"--methods {path}: expected a YAML file of rows: {' '.join(str(error).split())}") from None
    known = ("methods", "pairs", "fid", "interpolated", "transfer", "reasons")
    found = _fields(entries, known, where=f"--methods {path}")
    rows = found.pop("methods", None)
    if not isinstance(rows, Mapping) or not rows:
        raise PackError(f"--methods {path}: expected `methods:` with a row each, such as {{hypereditor: {{editor: hypereditor}}}}")
    methods = {str(label): _method(str(label), entry, path=path) for label, entry in rows.items()}
    pairs = load_instructions(str(found.pop("pairs"))) if found.get("pairs") else ()
    found.pop("pairs", None)
    return Plan(methods=methods, instructions=instructions, pairs=pairs, **found, **options)  # type: ignore[arg-type]


def _method(label: str, entry: object, *, path: str | Path) -> Method:
    return Method(**_fields(entry, [f.name for f in fields(Method)], where=f"--methods {path}: row {label!r}"))  # type: ignore[arg-type]


def _fields(entry: object, known: Sequence[str], *, where: str) -> dict[str, object]:
    if not isinstance(entry, Mapping):
        raise PackError(f"{where}: expected fields {', '.join(known)}, found {entry!r}")
    for key in entry:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise PackError(f"{where}: unknown field {key!r}; did you mean {nearest!r}? Fields: {', '.join(known)}")
    return dict(entry)


def prepare(pack: Pack, plan: Plan, *, say: Say) -> dict[str, Prepared]:
    """Return every row ready to run. Raises PackError or InstructionError for whatever a name, number or network of the plan lacks."""
    lacking = [name for name in NEEDED if name not in pack.info.networks]
    if lacking:
        raise PackError(f"pack {pack.path} lacks {lacking[0]}, which edits are measured with")
    if min(plan.pictures, plan.optimised) < 1 or not plan.methods:
        raise PackError(f"--pictures {plan.pictures}, --optimised {plan.optimised}: expected 1 or more, and at least one row in --methods")
    _check_instructions(pack, plan)
    paths = {path for method in plan.methods.values() for path in (method.pack, *method.packs.values()) if path}
    others = {path: Pack.load(path, device=pack.device) for path in sorted(paths)}
    rows = {}
    for label, method in plan.methods.items():
        own = {name: others[path] for name, path in method.packs.items()} or {"": others[method.pack] if method.pack else pack}
        for one in own.values():
            _check_links(label, method, plan=plan, pack=pack, own=one)
        rows[label] = _row(label, method, plan=plan, pack=pack, own=own, say=say)
        check_texts(rows[label].instructions, pack)
    return rows


def _row(label: str, method: Method, *, plan: Plan, pack: Pack, own: Mapping[str, Pack], say: Say) -> Prepared:
    """Return a row whose editor is in one pack, or in one for each instruction."""
    editors = {name: one.editor(method.editor, method.settings) for name, one in own.items()}
    editor = EditorPerInstruction(method.editor, editors) if method.packs else editors[""]
    infos = [one.info for one in own.values()]
    names = networks_of(infos[0], method)
    sizes = [Sizes.of(one, names) for one in own.values()]
    known = infos[0].networks.get(method.editor)
    return Prepared(
        label=label, method=method, editor=editor, inverter=pack.inverter(method.inverter, method.inverter_settings),
        instructions=tuple(method.scaled(one) for one in _able(label, method, plan=plan, packs=own, say=say)),
        pictures=min(plan.pictures, plan.optimised) if optimises(method) else plan.pictures,
        kind=known.kind if known is not None else "", packs=tuple(one.sha256 for one in own.values()), networks=tuple(names),
        parameters=_mean([one.parameters for one in sizes]), heads=_mean([one.heads for one in sizes]),
        training_s=_mean([one.training_s for one in sizes]),
    )  # fmt: skip


def _able(label: str, method: Method, *, plan: Plan, packs: Mapping[str, Pack], say: Say) -> list[Instruction]:
    """Return what a row's editor can follow of what it is asked. Raises InstructionError where that is nothing."""
    wanted = method.asked(plan.all_instructions)
    if not wanted:
        raise InstructionError(f"row {label!r}: {method.wordings} says none of the instructions that are measured, by their names")
    wrong = {one.name: problem(packs[one.name if method.packs else ""].info, method.editor, one) for one in wanted}
    able = [one for one in wanted if wrong[one.name] is None]
    reasons = [text for text in wrong.values() if text is not None]
    if not able:
        raise InstructionError(f"row {label!r}: {reasons[0]}")
    if reasons:
        say(f"{label}: follows {len(able)} of {len(wanted)} instructions; {reasons[0]}")
    return able


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Parameters of an editor's networks, those of hypernetworks' heads, and the seconds of training; None where there are none."""

    parameters: int | None
    heads: int | None
    training_s: float | None

    @classmethod
    def of(cls, pack: Pack, names: Sequence[str]) -> Sizes:
        """Return those of some networks of a pack together."""
        networks = [pack.network(name, nn.Module) for name in names]
        trained = [seconds for name in names if (seconds := pack.info.networks[name].numbers.get("training_s")) is not None]
        heads = sum(parameters(network.hypernetworks) for network in networks if isinstance(network, HyperEditor))
        return cls(parameters=sum(map(parameters, networks)) or None, heads=heads or None, training_s=sum(trained) if trained else None)


def _mean(values: Sequence[N | None]) -> N | None:
    """Return the mean of numbers, in their type; None where one is missing."""
    known = [value for value in values if value is not None]
    return type(known[0])(sum(known) / len(known)) if known and len(known) == len(values) else None


def optimises(method: Method) -> bool:
    """Say whether a row optimises something for every picture."""
    return method.editor in TEXT_OPTIMISERS or method.inverter in OPTIMISERS


def networks_of(info: PackInfo, method: Method) -> list[str]:
    """Return the networks that an editor has for itself: its own, or what it needs beyond generator, CLIP, encoders and classifier."""
    if method.editor in info.networks:
        return [method.editor]
    needed = METHODS[method.editor] | OPTIONAL.get(method.editor, frozenset())
    left_out = {f"clip_{part}" for part in ("adapter", "remapper") if method.settings.get(part) is False}
    return [name for name in info.networks if name in needed - SHARED - left_out]


def parameters(network: nn.Module) -> int:
    """Return how many numbers of a network were trained."""
    return sum(parameter.numel() for parameter in network.parameters())


def _check_links(label: str, method: Method, *, plan: Plan, pack: Pack, own: Pack) -> None:
    """Raise PackError where a row names a row, an instruction or a generator that cannot be meant."""
    for network in ("generator", "clip"):
        found = own.info.networks.get(network)
        if found is not None and found.sha256 != pack.info.networks[network].sha256:
            raise PackError(f"row {label!r}: {own.path} has another {network} than {pack.path}; train it with --pack {pack.path}")
    if method.ablates is not None and method.ablates not in plan.methods:
        raise PackError(f"row {label!r}: ablates {method.ablates!r}, which is no row; rows: {', '.join(plan.methods)}")
    names = [one.name for one in plan.all_instructions]
    given_names = (("instruction", method.instructions), ("strength of", method.strengths), ("pack of", method.packs))
    if method.pack is not None and method.packs:
        raise PackError(f"row {label!r}: has `pack` and `packs`; give one of them")
    for what, given in given_names:
        for name in given:
            if name not in names:
                raise PackError(f"row {label!r}: {what} {name!r} is not among those measured: {', '.join(names)}")


def check_texts(instructions: Sequence[Instruction], pack: Pack) -> None:
    """Raise InstructionError for a text that the CLIP of a pack cannot read to its end."""
    for one in instructions:
        for text in (one.source, one.target):
            try:
                pack.clip().tokens(text)
            except ValueError as error:
                raise InstructionError(f"instruction {one.name!r}: {error}") from None


def _check_instructions(pack: Pack, plan: Plan) -> None:
    seen = set[str]()
    for one in plan.all_instructions:
        if one.name in seen:
            raise InstructionError(f"instruction {one.name!r} comes twice; give each, the pairs too, its own name")
        seen.add(one.name)
    check_expectations(pack, plan.all_instructions)
    for one in plan.pairs:
        if group(one) != PAIRS:
            raise InstructionError(f"instruction {one.name!r}: a pair expects two attributes or more, found {dict(one.expects)}")


def check_expectations(pack: Pack, instructions: Sequence[Instruction]) -> None:
    """Raise InstructionError for an instruction that expects nothing, or what the pack's classifier does not know."""
    known = pack.attributes().names
    for one in instructions:
        if not one.expects:
            raise InstructionError(f"instruction {one.name!r}: success cannot be judged; add `expects`, such as {{smile: true}}")
        for name in one.expects:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise InstructionError(f"instruction {one.name!r}: expects {name!r}, unknown to the classifier; did you mean {nearest!r}?")
