"""What to change: an instruction is a source text, a target text and a strength."""

from __future__ import annotations

import difflib
import hashlib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import fsspec
import yaml
from PIL import Image

NAME_PATTERN = re.compile(r"^[a-z0-9][a-z0-9_-]*$")
# Output shards already use these member names for something else (KEY.aligned.png, KEY.edits.json ...).
RESERVED_NAMES = frozenset({"aligned", "edits", "inversion", "latents", "original", "quarantine"})
MAX_STRENGTH = 10.0


class InstructionError(ValueError):
    """An instruction, or the file that lists them, is wrong; the message says where and what to do."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """Say what to change: from `source` to `target`, scaled by `strength` (1 is the trained edit, 0 nothing, -1 the reverse).

    `name` goes into the names of output members. `expects` maps attribute names of the attribute classifier to the answer that shows
    success, for example `{"smile": True}`; empty means that success cannot be judged. `reference` is the path or fsspec URL of a picture
    that shows what is wanted: editors that can look at it follow it in place of the target's words, by which the edit is scored all the
    same; `reference_sha256` says which bytes that were. Raises InstructionError.
    """

    name: str
    source: str
    target: str
    strength: float = 1.0
    expects: Mapping[str, bool] = field(default_factory=dict)
    reference: str = ""
    reference_sha256: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_text(self.name, "source", self.source)
        _check_text(self.name, "target", self.target)
        if self.source.strip() == self.target.strip():
            raise InstructionError(f"instruction {self.name!r}: source and target are both {self.source!r}, so there is nothing to change")
        _check_strength(self.name, self.strength)
        _check_expects(self.name, self.expects)
        if not isinstance(self.reference, str):
            raise InstructionError(f"instruction {self.name!r}: reference must be the path or URL of a picture, found {self.reference!r}")

    def plain(self) -> dict[str, object]:
        """Return the fields as YAML has them, without those of a reference where there is none."""
        return {key: value for key, value in asdict(self).items() if value or not key.startswith("reference")}

    def content(self) -> dict[str, object]:
        """Return what decides on the edit: the fields of `plain`, a reference by its bytes, not by where they lie."""
        return {key: value for key, value in self.plain().items() if key != "reference"}


FIELDS = tuple(f.name for f in fields(Instruction) if f.name != "reference_sha256")
REQUIRED = ("name", "source", "target")


def load_instructions(path: str) -> tuple[Instruction, ...]:
    """Read a YAML list of instructions from a path or fsspec URL, in order. Raises InstructionError."""
    entries = _read_yaml(path)
    if not isinstance(entries, list) or not entries:
        found = "nothing" if not entries else f"a {type(entries).__name__}"
        raise InstructionError(f"{path}: expected a YAML list of instructions ('- name: smile' ...), found {found}")
    instructions: list[Instruction] = []
    seen: dict[str, int] = {}
    for position, entry in enumerate(entries, start=1):
        instruction = _with_reference(path, _parse(f"{path}: entry {position}", entry))
        if instruction.name in seen:
            first = seen[instruction.name]
            raise InstructionError(f"{path}: entry {position}: name {instruction.name!r} was used by entry {first}; give each its own name")
        seen[instruction.name] = position
        instructions.append(instruction)
    return tuple(instructions)


def _with_reference(path: str, instruction: Instruction) -> Instruction:
    """Return an instruction with the place and hash of its reference picture, which lies beside the file unless it is absolute or a URL."""
    if not instruction.reference:
        return instruction
    place = instruction.reference
    if "://" not in place and not place.startswith("/"):
        folder = str(path).rpartition("/")[0]
        place = f"{folder}/{place}" if folder else place
    place = place if "://" in place else str(Path(place).expanduser().absolute())
    return replace(instruction, reference=place, reference_sha256=hashlib.sha256(read_reference(instruction.name, place)).hexdigest())


def read_reference(name: str, place: str) -> bytes:
    """Return the bytes of an instruction's reference picture. Raises InstructionError where it cannot be read."""
    try:
        with fsspec.open(place, "rb") as stream:
            data: bytes = stream.read()
        Image.open(io.BytesIO(data)).convert("RGB")
        return data
    except (OSError, ValueError, ImportError, SyntaxError, Image.DecompressionBombError) as error:
        wrong = "there is no such file" if isinstance(error, FileNotFoundError) else "not a picture that can be read"
        raise InstructionError(f"instruction {name!r}: reference {place}: {wrong}; name a picture that every worker can read") from None


def _read_yaml(path: str) -> object:
    try:
        with fsspec.open(str(path), "rb") as stream:
            return yaml.safe_load(stream.read())
    except FileNotFoundError:
        raise InstructionError(f"{path}: no such file; --instructions takes a YAML list of instructions") from None
    except IsADirectoryError:
        raise InstructionError(f"{path}: is a folder; --instructions takes a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InstructionError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _parse(where: str, entry: object) -> Instruction:
    if not isinstance(entry, dict):
        raise InstructionError(f"{where}: expected fields {', '.join(FIELDS)}, found {entry!r}")
    for key in entry:
        if key not in FIELDS:
            nearest = difflib.get_close_matches(str(key), FIELDS, n=1, cutoff=0.0)[0]
            raise InstructionError(f"{where}: unknown field {key!r}; did you mean {nearest!r}? Fields: {', '.join(FIELDS)}")
    missing = [name for name in REQUIRED if name not in entry]
    if missing:
        raise InstructionError(f"{where}: missing field {missing[0]!r}; every instruction needs {', '.join(REQUIRED)}")
    try:
        return Instruction(**entry)
    except InstructionError as error:
        raise InstructionError(f"{where}: {error}") from None


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not NAME_PATTERN.match(name):
        raise InstructionError(f"instruction name {name!r}: expected lower-case letters, digits, '_', '-', first a letter or digit")
    if name in RESERVED_NAMES:
        raise InstructionError(f"instruction name {name!r} names another output member; avoid {sorted(RESERVED_NAMES)}")


def _check_text(name: str, which: str, text: object) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InstructionError(f"instruction {name!r}: {which} must be a text that is not empty, found {text!r}")


def _check_strength(name: str, strength: object) -> None:
    number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
    if not number or not math.isfinite(strength) or abs(strength) > MAX_STRENGTH:  # type: ignore[arg-type]
        allowed = f"{-MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
        raise InstructionError(f"instruction {name!r}: strength must be a number from {allowed}, found {strength!r}")


def _check_expects(name: str, expects: object) -> None:
    good = isinstance(expects, Mapping) and all(isinstance(k, str) and isinstance(v, bool) for k, v in expects.items())
    if not good:
        raise InstructionError(f"instruction {name!r}: expects must map attribute names to true or false, found {expects!r}")
