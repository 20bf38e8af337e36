"""Settings of inverters and editors, from a command line to the dataclass of a method."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.pack_format import PackError, PackInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Settings of a method that has none."""


def check_name(what: str, name: str, *, pack: Path, info: PackInfo, valid: Sequence[str]) -> None:
    """Raise PackError, with what there is, for a name that is no method of this sort ("inverter", "editor")."""
    if name not in valid:
        found = info.networks.get(name)
        wrong = f"network {name!r} is a {found.kind}, not an {what}" if found else f"no {what} {name!r}"
        raise PackError(f"pack {pack}: {wrong}; it has {', '.join(valid) or 'none'}")


def settings_of(what: str, name: str, kind: type, settings: Mapping[str, object]) -> object:
    """Return the dataclass `kind` with these settings, defaults for the rest. Raises PackError, with the nearest name or the fault."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    for key in settings:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            hint = f"did you mean {nearest[0]!r}? It has {', '.join(known)}" if nearest else "it has none"
            raise PackError(f"{what} {name!r}: no setting {key!r}; {hint}")
    try:
        return kind(**{key: _number(key, value, known[key]) for key, value in settings.items()})
    except (TypeError, ValueError) as error:
        raise PackError(f"{what} {name!r}: {error}") from error


def _number(name: str, value: object, known: dataclasses.Field[object]) -> object:
    """Return the value, a whole number as int where the setting counts something: 15.0 is a step count too. Raises ValueError."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if known.type in ("float", float) and not number:
        raise ValueError(f"{name}: expected a number, found {value!r}")
    if known.type not in ("int", int) or type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError(f"{name}: expected a whole number, found {value!r}")
