"""What run.json says about a run, read with care: an older or unfinished run may lack any of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.report_figures import format_count, format_duration

NOTHING = "\N{EN DASH}"
STAGE_NAMES = {"wait": "waiting for samples", "encode": "making PNG files", "write": "writing and committing"}
SHOWN_ELSEWHERE = frozenset({"config", "versions", "instructions", "features", "scores", "counts", "input", "format", "augmentation"})


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Hold the facts of a run that no manifest has."""

    title: str = "a dataset"
    faces: bool = True
    """Whether faces were cut out; else the pictures may show anything."""
    dataset: str = NOTHING
    pack: str = NOTHING
    when: str = NOTHING
    duration: str = NOTHING
    throughput: str = NOTHING
    throughput_note: str = "not recorded"
    expects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    details: tuple[tuple[str, str], ...] = ()
    config: str = "{}"
    versions: tuple[tuple[str, str], ...] = ()


def read_facts(record: Mapping[str, object], *, edits: int) -> Facts:
    """Pick the facts out of run.json; `edits` counts those of the whole output, of which the last run may have made a part."""
    config, this_run = _mapping(record.get("config")), _mapping(record.get("this_run"))
    dataset = _text(record.get("input") or config.get("input"))
    seconds, made = _number(record.get("seconds")), _number(this_run.get("images"))
    duration = format_duration(seconds) if seconds else NOTHING
    partly = made is not None and made < edits
    instructions = record.get("instructions")
    listed = [entry for entry in instructions if isinstance(entry, dict)] if isinstance(instructions, list) else []
    return Facts(
        title="/".join(dataset.rstrip("/").split("/")[-2:]),
        faces=config.get("align") != "centre",
        dataset=dataset,
        pack=_pack(record, config),
        when=_when(_text(record.get("started"))),
        duration=NOTHING if partly else duration,
        throughput=_rate(_number(record.get("images_per_s"))),
        throughput_note=_throughput_note(duration, f"{made:.0f} of {edits} in the last run" if partly else ""),
        expects={str(entry.get("name")): tuple(_mapping(entry.get("expects"))) for entry in listed},
        details=_details(record),
        config=json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False),
        versions=tuple((name, _text(value)) for name, value in sorted(_mapping(record.get("versions")).items())),
    )


def _throughput_note(duration: str, part: str) -> str:
    if duration == NOTHING:
        return "not recorded"
    return f"{part}, in {duration}" if part else f"{duration} from the first shard to the last"


def _when(text: str) -> str:
    """Leave out the seconds of a time."""
    return re.sub(r"(\d\d:\d\d):\d\d(\.\d+)?", r"\1", text)


def _pack(record: Mapping[str, object], config: Mapping[str, object]) -> str:
    pack = record.get("pack")
    name = _mapping(pack).get("name") if isinstance(pack, dict) else pack
    return _text(name or config.get("pack"))


def _details(record: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """List every single value of the record, nested ones with a dotted name; settings and versions have their own place."""
    found: list[tuple[str, str]] = []
    for name, value in record.items():
        if name not in SHOWN_ELSEWHERE:
            found += _flat(name, value)
    found = [line for line in found if not line[0].startswith("this_run.stage_seconds.")]
    stages = _shares(_mapping(_mapping(record.get("this_run")).get("stage_seconds")))
    return (*found, *([("time of the workers", stages)] if stages else []))


def _shares(seconds: Mapping[str, object]) -> str:
    """Return the share of the time that each stage took, in the order in which they come."""
    known = {stage: value for stage, value in ((stage, _number(value)) for stage, value in seconds.items()) if value}
    total = sum(known.values())
    return ", ".join(f"{STAGE_NAMES.get(stage, stage)} {100 * value / total:.0f} %" for stage, value in known.items())


def _flat(name: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in _flat(f"{name}.{key}", inner)]
    if isinstance(value, list):
        return [(name, ", ".join(_text(entry) for entry in value))]
    return [(name, _text(value))]


def _rate(rate: float | None) -> str:
    if rate is None:
        return NOTHING
    return f"{rate:.1f}" if rate < 100 else format_count(round(rate))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return NOTHING if value in (None, "") else str(value)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
