"""Suite `strengths`: the strength of every instruction, chosen on people that are neither trained on nor held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from models.instruction import Instruction
from models.pack import Pack
from training.data import VALIDATION
from training.edits import Judges, measure

NAME = "strengths"
STRENGTHS = (0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.4)
PICTURES = 150
ROUNDING = 1e-9
TOLERANCE, STYLE_TOLERANCE = 0.01, 0.05
"""By how much less than the best a weaker strength may reach and still be chosen: what it leaves alone is worth it. More for styles, whose
criterion does not see the person, which they change twice as fast as they gain success."""
Say = Callable[[str], None]
Numbers = dict[str, float]


def choose(
    pack: Pack, instructions: Sequence[Instruction], *, say: Say, strengths: Sequence[float] = STRENGTHS, pictures: int = PICTURES,
    editor: str = "hypereditor", inverter: str = "e4e",
) -> dict[str, object]:  # fmt: skip
    """Return for every instruction the chosen strength and what each strength reaches on validation people.

    Edits of attributes are chosen by how many succeed on what is still the same person, edits of style by how many succeed: the identity
    network has never seen a style. Raises PackError where the pack lacks the editor or the inverter.
    """
    judges, method = Judges.of(pack, inverter=inverter), pack.editor(editor)
    tried: dict[float, dict[str, Numbers]] = {}
    for strength in sorted(strengths):
        say(f"strength {strength:g}")
        scaled = [replace(instruction, strength=strength) for instruction in instructions]
        tried[strength] = measure(method, judges=judges, instructions=scaled, pictures=pictures, seed=VALIDATION + 7)
    found: dict[str, object] = {}
    for instruction in instructions:
        figures = {strength: by_name[instruction.name] for strength, by_name in tried.items()}
        style = any(numbers["style"] > 0.5 for numbers in figures.values())
        reached = {strength: numbers[criterion(numbers)] for strength, numbers in figures.items()}
        best = weakest_good(reached, tolerance=STYLE_TOLERANCE if style else TOLERANCE)
        wanted = ("success", "same_person", "success_same_person", "identity", "collateral")
        rows = {f"{strength:g}": {name: round(numbers[name], 4) for name in wanted} for strength, numbers in figures.items()}
        found[instruction.name] = {"strength": best, "validation": rows}
        say(f"{instruction.name}: {best:g} ({', '.join(f'{name} {value:.3f}' for name, value in rows[f'{best:g}'].items())})")
    return found


def of(chosen: Mapping[str, object], name: str) -> float:
    """Return the strength that `choose` chose for an instruction."""
    entry = chosen[name]
    assert isinstance(entry, dict)
    return float(entry["strength"])


def criterion(numbers: Numbers) -> str:
    """Return the figure by which strengths of such an edit are compared."""
    return "success" if numbers["style"] > 0.5 else "success_same_person"


def weakest_good(reached: dict[float, float], *, tolerance: float = TOLERANCE) -> float:
    """Return the smallest strength that reaches as much as the best one, within the tolerance."""
    most = max(reached.values())
    return min(strength for strength, value in reached.items() if value >= most - tolerance - ROUNDING)
