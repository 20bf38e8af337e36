"""What run.json says about a run, read with care: an older or unfinished run may lack any of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.report_figures import format_duration

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Hold the facts of a run that no manifest has."""

    title: str = "a dataset"
    dataset: str = NOTHING
    pack: str = NOTHING
    when: str = NOTHING
    duration: str = NOTHING
    throughput: str = NOTHING
    throughput_note: str = "not recorded"
    features: Mapping[str, str] = field(default_factory=dict)
    expects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    details: tuple[tuple[str, str], ...] = ()
    config: str = "{}"
    versions: tuple[tuple[str, str], ...] = ()


def read_facts(record: Mapping[str, object], *, edits: int) -> Facts:
    """Pick the facts out of run.json."""
    config = _mapping(record.get("config"))
    seconds = _number(record.get("seconds"))
    dataset = _text(record.get("input") or config.get("input"))
    rate = edits / seconds if seconds and edits else None
    instructions = record.get("instructions")
    listed = [entry for entry in instructions if isinstance(entry, dict)] if isinstance(instructions, list) else []
    return Facts(
        title="/".join(dataset.rstrip("/").split("/")[-2:]),
        dataset=dataset,
        pack=_pack(record, config),
        when=_when(_text(record.get("started"))),
        duration=format_duration(seconds) if seconds else NOTHING,
        throughput=_rate(rate),
        throughput_note=f"{format_duration(seconds)} from first shard to last" if seconds else "not recorded",
        features={name: _text(value) for name, value in _mapping(record.get("features")).items()},
        expects={str(entry.get("name")): tuple(_mapping(entry.get("expects"))) for entry in listed},
        details=_details(record),
        config=json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False),
        versions=tuple((name, _text(value)) for name, value in sorted(_mapping(record.get("versions")).items())),
    )


def _when(text: str) -> str:
    """Print an ISO time to the minute, in UTC; any other text as it is."""
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text


def _pack(record: Mapping[str, object], config: Mapping[str, object]) -> str:
    pack = record.get("pack")
    name = _mapping(pack).get("name") if isinstance(pack, dict) else pack
    return _text(name or config.get("pack"))


def _details(record: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """List every single value of the record, nested ones with a dotted name; settings and versions have their own place."""
    found: list[tuple[str, str]] = []
    for name, value in record.items():
        if name not in ("config", "versions", "instructions", "features"):
            found += _flat(name, value)
    return tuple(found)


def _flat(name: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in _flat(f"{name}.{key}", inner)]
    if isinstance(value, list):
        return [(name, ", ".join(_text(entry) for entry in value))]
    return [(name, _text(value))]


def _rate(rate: float | None) -> str:
    if rate is None:
        return NOTHING
    return f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return NOTHING if value in (None, "") else str(value)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
