"""What a newly trained portraits pack is given before it takes its place: strengths of its instructions, and its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from evaluation import pack_suite, strengths
from models.instruction import Instruction
from models.pack import Pack, add_file

EVALUATION, INSTRUCTIONS = "evaluation.json", "instructions.yaml"
Say = Callable[[str], None]


def complete(
    folder: Path, instructions: Sequence[Instruction], *, say: Say, tried: Sequence[float] = strengths.STRENGTHS,
    pictures: int = pack_suite.PICTURES, edits: int = pack_suite.EDITS,
) -> None:  # fmt: skip
    """Choose the instructions' strengths on validation people, measure at those on held-out ones, and keep both in the pack.

    `tried` are the strengths to choose from, `pictures` and `edits` the held-out portraits as in `pack_suite.measure`; the choice takes
    at most `edits` validation portraits.
    """
    pack = Pack.load(folder)
    chosen = strengths.choose(pack, instructions, say=say, strengths=tried, pictures=min(edits, strengths.PICTURES))
    tuned = [replace(instruction, strength=strengths.of(chosen, instruction.name)) for instruction in instructions]
    figures = pack_suite.measure(pack, tuned, say=say, pictures=pictures, edits=edits)
    entries = [{name: value for name, value in instruction.plain().items() if value != {}} for instruction in tuned]
    _keep(folder, INSTRUCTIONS, yaml.safe_dump(entries, sort_keys=False, default_flow_style=None))
    # Not the pack's own hash: it depends on this file.
    _keep(folder, EVALUATION, json.dumps({"suite": pack_suite.NAME, **figures, "strengths": chosen}, indent=1) + "\n")


def _keep(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    add_file(folder, name)
