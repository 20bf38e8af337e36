"""Read a recipe from YAML; every mistake is answered with its place and what would work."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar, cast

import fsspec
import yaml

from augmentation.edits import MOST_COMBINED, SAME_PERSON, Edit, Gates, Strength
from augmentation.recipe import CLASSIFIER, ORIGINALS, Balance, Drawn, Originals, Recipe, RecipeError, check, groups_of
from augmentation.rows import DRAWN as DRAWN_KIND
from models.instruction import MAX_STRENGTH, NAME_PATTERN, RESERVED_NAMES, Instruction

T = TypeVar("T")
Fields = Mapping[str, object]
ParseInstructions = Callable[[Sequence[str]], tuple[Instruction, ...]]
AUTO = "auto"
FIELDS = (
    "instructions",
    "edits",
    "accepted",
    "attempts",
    "originals",
    "labels",
    "gates",
    "auto",
    "drawn",
    "words",
    "carry",
    "keep_rejected",
    "seed",
)
EDIT_FIELDS = ("instruction", "name", "weight", "strength", "gates", "caption")
GATES = ("success", "identity", "collateral", "realism")
AUTO_FIELDS = ("low", "high", "steps")
ACCEPTED = ("per_sample", "per_edit", "balance")
BALANCE = ("attributes", "shares", "size")
DRAWN = ("count", "truncation", "seed", "shard_size", "realism")
TAKEN = RESERVED_NAMES | {DRAWN_KIND}
MOST_SEEDS = 2**63 - 1
DEFAULT_AUTO = Strength(low=0.2, high=2.0, auto=True)


def load_recipe(path: str, *, instructions: ParseInstructions) -> Recipe:
    """Read a recipe from a path or fsspec URL; `instructions` reads what its `instructions` names. Raises RecipeError, InstructionError."""
    try:
        return parse_recipe(_read_yaml(path), instructions=instructions)
    except RecipeError as error:
        raise RecipeError(f"--recipe {path}: {error}") from None


def parse_recipe(content: object, *, instructions: ParseInstructions) -> Recipe:
    """Return the recipe of what a YAML file holds. Raises RecipeError, InstructionError."""
    found = _mapping("the recipe", content, FIELDS)
    known = _instructions(found.get("instructions", ()), instructions)
    gates = _gates("gates", found.get("gates", {}), Gates())
    auto = _auto("auto", found.get("auto", {}))
    edits = tuple(
        _edit(f"edits, entry {place}", entry, known=known, gates=gates, auto=auto)
        for place, entry in enumerate(_list("edits", found.get("edits", [])), start=1)
    )
    accepted = _mapping("accepted", found.get("accepted", {}), ACCEPTED)
    recipe = Recipe(
        edits=edits,
        per_sample=_count("accepted.per_sample", accepted.get("per_sample", 0), least=0),
        per_edit=_per_edit(accepted.get("per_edit", {}), edits),
        balance=_balance(accepted["balance"]) if accepted.get("balance") is not None else None,
        attempts=_count("attempts", found.get("attempts", 3)),
        originals=cast(Originals, _one_of("originals", found.get("originals", "aligned"), ORIGINALS)),
        labels=_labels(found.get("labels", CLASSIFIER)),
        drawn=_drawn(found["drawn"]) if found.get("drawn") is not None else None,
        words=_words(found.get("words", {})),
        carry=tuple(_text("carry", member) for member in _list("carry", found.get("carry", []))),
        keep_rejected=_count("keep_rejected", found.get("keep_rejected", 8), least=0),
        seed=_count("seed", found.get("seed", 0), least=0),
    )
    check(recipe)
    return recipe


def _read_yaml(path: str, part: str = "") -> object:
    where = f"{part} {path}: " if part else ""
    try:
        with fsspec.open(path, "rb") as stream:
            return yaml.safe_load(stream.read())
    except FileNotFoundError:
        like = f"configs/augment/portraits{'_words' if part else ''}.yaml"
        raise RecipeError(f"{where}no such file; it takes a YAML file such as {like}") from None
    except IsADirectoryError:
        raise RecipeError(f"{where}is a folder, expected a YAML file") from None
    except (OSError, ImportError) as error:
        raise RecipeError(f"{where}cannot be read: {type(error).__name__}: {error}") from None
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError):
            raise RecipeError(f"{where}not valid YAML: {error}") from None
        raise RecipeError(f"{where}cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}not valid YAML: {' '.join(str(error).split())}") from None


def _instructions(given: object, parse: ParseInstructions) -> dict[str, Instruction]:
    texts = [given] if isinstance(given, str) else _list("instructions", given)
    return {one.name: one for one in parse([_text("instructions", text) for text in texts])}


def _edit(where: str, entry: object, *, known: Mapping[str, Instruction], gates: Gates, auto: Strength) -> Edit:
    entry = {"instruction": entry} if isinstance(entry, str) else entry
    fields = _mapping(where, entry, EDIT_FIELDS)
    names = fields.get("instruction")
    named = [names] if isinstance(names, str) else _list(f"{where}: instruction", names)
    if not 1 <= len(named) <= MOST_COMBINED:
        raise RecipeError(f"{where}: instruction names {len(named)}, expected one, or a list of two to combine")
    if len(named) > 1 and named[0] == named[1]:
        raise RecipeError(f"{where}: combines {named[0]!r} with itself; say `strength: 2` to have more of it")
    for name in named:
        if not isinstance(name, str) or name not in known:
            raise RecipeError(f"{where}: unknown instruction {name!r}: {_nearest(str(name), known) or 'list a file in `instructions`'}")
    name = _text(f"{where}: name", fields.get("name", "-".join(str(one) for one in named)))
    if not NAME_PATTERN.match(name):
        raise RecipeError(f"{where}: name {name!r}: expected lower-case letters, digits, '_', '-', first a letter or digit")
    if name in TAKEN:
        raise RecipeError(f"{where}: the name {name!r} stands for something else; avoid {', '.join(sorted(TAKEN))}")
    edit = Edit(
        name=name,
        instructions=tuple(known[str(one)] for one in named),
        weight=_number(f"{where}: weight", fields.get("weight", 1.0), above=0.0),
        strength=_strength(f"{where}: strength", fields.get("strength", 1.0), auto),
        gates=_gates(f"{where}: gates", fields.get("gates", {}), gates),
        caption=_text(f"{where}: caption", fields["caption"]) if "caption" in fields else "",
    )
    strongest = max(abs(one.strength) for one in edit.instructions) * edit.strength.high
    if strongest > MAX_STRENGTH:
        raise RecipeError(f"{where}: comes to a strength of {strongest:g}, at most {MAX_STRENGTH:g} works; lower `strength` or `auto.high`")
    return edit


def _strength(where: str, value: object, auto: Strength) -> Strength:
    if value == AUTO:
        return auto
    if isinstance(value, str):
        raise RecipeError(f"{where}: {value!r}: expected a number, a range such as [0.6, 1.2], or auto")
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2:
        raise RecipeError(f"{where}: {value!r}: a range has two ends, such as [0.6, 1.2]")
    low, high = (_number(where, end, above=0.0) for end in ends)
    if low > high:
        raise RecipeError(f"{where}: {value!r}: the range begins above its end; write [{high:g}, {low:g}]")
    return Strength(low=low, high=high)


def _auto(where: str, value: object) -> Strength:
    fields = _mapping(where, value, AUTO_FIELDS)
    low = _number(f"{where}.low", fields.get("low", DEFAULT_AUTO.low), above=0.0)
    high = _number(f"{where}.high", fields.get("high", DEFAULT_AUTO.high), above=0.0)
    if low >= high:
        raise RecipeError(f"{where}: low {low:g} is not below high {high:g}; `strength: {high:g}` at an edit fixes it")
    return Strength(low=low, high=high, auto=True, steps=_count(f"{where}.steps", fields.get("steps", DEFAULT_AUTO.steps)))


def _gates(where: str, value: object, default: Gates) -> Gates:
    fields = _mapping(where, value, GATES)

    def of(name: str, read: Callable[[str, object], T], otherwise: T | None) -> T | None:
        if name not in fields:
            return otherwise
        return None if fields[name] is None else read(f"{where}.{name}", fields[name])

    return Gates(
        success=of("success", lambda place, found: _number(place, found, above=0.0, most=1.0), default.success),
        identity=cast("float | str | None", of("identity", _identity, default.identity)),
        collateral=of("collateral", lambda place, found: _count(place, found, least=0), default.collateral),
        realism=of("realism", lambda place, found: _number(place, found, above=0.0), default.realism),
    )


def _identity(where: str, value: object) -> float | str:
    if isinstance(value, str):
        return _one_of(where, value, (SAME_PERSON,))
    return _number(where, value, above=-1.0, most=1.0)


def _per_edit(value: object, edits: Sequence[Edit]) -> dict[str, int]:
    names = [edit.name for edit in edits]
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, _count("accepted.per_edit", value))
    for name in value:
        if name not in names:
            raise RecipeError(f"accepted.per_edit: no edit is called {name!r}: {_nearest(str(name), names)}")
    return {str(name): _count(f"accepted.per_edit.{name}", count) for name, count in value.items()}


def _balance(value: object) -> Balance:
    fields = _mapping("accepted.balance", {"attributes": value} if isinstance(value, list) else value, BALANCE)
    attributes = [_text("accepted.balance.attributes", name) for name in _list("accepted.balance.attributes", fields.get("attributes", []))]
    if not 1 <= len(attributes) <= 4 or len(set(attributes)) != len(attributes):
        raise RecipeError(f"accepted.balance.attributes: expected one to four different attributes, found {attributes}")
    groups = groups_of(attributes)
    given = fields.get("shares")
    shares = dict.fromkeys(groups, 1 / len(groups))
    if given is not None:
        named = {str(group): group for group in groups}
        read = _mapping("accepted.balance.shares", given, tuple(named))
        shares = {
            group: _number(f"accepted.balance.shares.{name}", read.get(name, 0), above=0.0, or_equal=True) for name, group in named.items()
        }
    size = fields.get("size")
    return Balance(shares=tuple(shares.items()), size=None if size is None else _count("accepted.balance.size", size))


def _drawn(value: object) -> Drawn:
    fields = _mapping("drawn", {"count": value} if isinstance(value, int) else value, DRAWN)
    default = Drawn(count=1)
    seed, count = _count("drawn.seed", fields.get("seed", default.seed), least=0), _count("drawn.count", fields.get("count"))
    if seed + count > MOST_SEEDS:
        raise RecipeError(f"drawn.seed: {seed} with {count} pictures goes beyond {MOST_SEEDS}; take a smaller one")
    realism = fields.get("realism", default.realism)
    return Drawn(
        count=count,
        truncation=_number("drawn.truncation", fields.get("truncation", default.truncation), above=0.0, most=1.0),
        seed=seed,
        shard_size=_count("drawn.shard_size", fields.get("shard_size", default.shard_size)),
        realism=None if realism is None else _number("drawn.realism", realism, above=0.0),
    )


def _labels(value: object) -> str:
    text = _text("labels", value)
    member, colon, _ = text.partition(":")
    if text != CLASSIFIER and not (member and colon):
        raise RecipeError(f"labels: {text!r}: expected {CLASSIFIER}, or a member of the input and a place in it, such as json:attributes")
    return text


def _words(value: object) -> dict[str, tuple[str, ...]]:
    """Return phrases by attribute, from a mapping or from a YAML file that holds one."""
    content = _read_yaml(value, "words") if isinstance(value, str) else value
    if not isinstance(content, Mapping):
        raise RecipeError(f"words: expected attributes with lists of phrases, or a YAML file of such, found {content!r}")
    return {str(name): tuple(_text(f"words.{name}", one) for one in _list(f"words.{name}", phrases)) for name, phrases in content.items()}


def _mapping(where: str, value: object, known: Collection[str]) -> Fields:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected {', '.join(known)}, found {value!r}")
    for key in value:
        if key not in known:
            raise RecipeError(f"{where}: unknown {key!r}: {_nearest(str(key), known)}")
    return {str(key): found for key, found in value.items()}


def _list(where: str, value: object) -> list[object]:
    if not isinstance(value, (list, tuple)):
        raise RecipeError(f"{where}: expected a list, found {value!r}")
    return list(value)


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(f"{where}: expected a text, found {value!r}")
    return value


def _one_of(where: str, value: object, valid: Collection[str]) -> str:
    text = "none" if value is None else str(value)  # YAML readers may take a bare none for nothing
    if text not in valid:
        raise RecipeError(f"{where}: {value!r}: {_nearest(text, valid)}")
    return text


def _count(where: str, value: object, *, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RecipeError(f"{where}: expected a whole number of {least} or more, found {value!r}")
    return value


def _number(where: str, value: object, *, above: float, most: float = math.inf, or_equal: bool = False) -> float:
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not (value > above or (or_equal and value == above)) or value > most:  # type: ignore[operator]
        limit = f" and at most {most:g}" if math.isfinite(most) else ""
        raise RecipeError(f"{where}: expected a number {'of at least' if or_equal else 'above'} {above:g}{limit}, found {value!r}")
    return float(value)  # type: ignore[arg-type]


def _nearest(value: str, valid: Collection[str]) -> str:
    close = difflib.get_close_matches(value, valid, n=1, cutoff=0.5)
    return f"{f'did you mean {close[0]!r}? ' if close else ''}valid: {', '.join(valid)}" if valid else ""
