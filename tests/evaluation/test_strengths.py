"""Strengths of instructions: the choice, and that it rests on other people than the held-out ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluation import strengths
from models.instruction import Instruction
from models.pack import Pack
from training import edits

torch.set_num_threads(1)
PACK = Path(__file__).resolve().parents[2] / "packs" / "portraits64"
BEARD = Instruction(name="beard", source="a face", target="a face with a beard", expects={"beard": True})
SKETCH = Instruction(name="sketch", source="a photo of a face", target="a pencil sketch of a face", expects={"style_sketch": True})


def test_the_weakest_of_the_good_ones_is_chosen() -> None:
    assert strengths.weakest_good({0.5: 0.2, 1.0: 0.895, 1.5: 0.9, 2.0: 0.4}) == 1.0
    assert strengths.weakest_good({0.5: 0.2, 1.0: 0.8, 1.5: 0.9}) == 1.5
    assert strengths.weakest_good({0.85: 0.9, 1.0: 0.95, 1.5: 1.0}, tolerance=strengths.STYLE_TOLERANCE) == 1.0


def test_styles_are_judged_by_success_alone() -> None:
    assert strengths.criterion({"style": 1.0}) == "success" and strengths.criterion({"style": 0.0}) == "success_same_person"


def test_the_figures_are_those_of_the_edits_at_each_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def measured(*args: object, seed: int, **more: object) -> dict[str, dict[str, float]]:
        seeds.append(seed)
        return edits.measure(*args, seed=seed, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(strengths, "measure", measured)
    said: list[str] = []
    found = strengths.choose(Pack.load(PACK), [BEARD, SKETCH], say=said.append, strengths=(1.0, 0.1), pictures=12)
    beard = found["beard"]
    assert isinstance(beard, dict) and beard["strength"] == 1.0 and list(beard["validation"]) == ["0.1", "1"]
    assert beard["validation"]["1"]["success"] > 0.7 > beard["validation"]["0.1"]["success"]
    sketch = found["sketch"]
    assert isinstance(sketch, dict)
    reached = {float(name): numbers["success"] for name, numbers in sketch["validation"].items()}
    assert sketch["strength"] == strengths.weakest_good(reached, tolerance=strengths.STYLE_TOLERANCE)
    assert set(seeds) == {strengths.VALIDATION + 7} and any(line.startswith("sketch: ") for line in said)
