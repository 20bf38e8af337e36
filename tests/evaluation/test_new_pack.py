"""A new pack gets strengths chosen on validation people, and its figures at those."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from evaluation import new_pack
from models.instruction import Instruction, load_instructions
from models.pack import Pack

torch.set_num_threads(1)
PACK = Path(__file__).resolve().parents[2] / "packs" / "portraits64"
BEARD = Instruction(name="beard", source="a face", target="a face with a beard", strength=0.3, expects={"beard": True})


def test_strengths_are_chosen_and_the_pack_is_measured_at_them(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(PACK, folder)
    new_pack.complete(folder, [BEARD], say=lambda _: None, tried=(0.1, 1.5), pictures=20, edits=8)
    (chosen,) = load_instructions(str(folder / new_pack.INSTRUCTIONS))
    assert chosen.strength == 1.5 and (chosen.target, chosen.expects) == (BEARD.target, BEARD.expects)
    figures = json.loads((folder / new_pack.EVALUATION).read_text())
    assert figures["strengths"]["beard"]["strength"] == 1.5 and set(figures["strengths"]["beard"]["validation"]) == {"0.1", "1.5"}
    assert figures["editing"]["beard"]["success"] > 0.7 and figures["editing"]["beard"]["portraits"] == 8
    assert {new_pack.INSTRUCTIONS, new_pack.EVALUATION} <= set(Pack.load(folder).info.files)
