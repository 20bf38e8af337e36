"""Instruction files: what is read, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.instruction import Instruction, InstructionError, load_instructions

GOOD = """
- {name: smile, source: face, target: smiling face, expects: {smile: true, neutral: false}}
- {name: sketch-2, source: photo, target: pencil sketch, strength: 0.5}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "edits.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_reads_instructions_in_order(tmp_path: Path) -> None:
    smile, sketch = load_instructions(write(tmp_path, GOOD))
    assert smile == Instruction(name="smile", source="face", target="smiling face", expects={"smile": True, "neutral": False})
    assert smile.strength == 1.0
    assert (sketch.name, sketch.strength, dict(sketch.expects)) == ("sketch-2", 0.5, {})


def test_reads_from_a_url(tmp_path: Path) -> None:
    assert len(load_instructions("file://" + write(tmp_path, GOOD))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a YAML list of instructions .* found nothing"),
        ("name: smile", "expected a YAML list of instructions .* found a dict"),
        ("- smile", "entry 1: expected fields name, source, target, strength, expects, reference, found 'smile'"),
        ("- {name: a, source: b, targt: c}", "entry 1: unknown field 'targt'; did you mean 'target'"),
        ("- {name: a, source: b}", "entry 1: missing field 'target'"),
        ("- {name: a, source: b, target: '  '}", "entry 1: .*target must be a text that is not empty"),
        ("- {name: a, source: 3, target: c}", "entry 1: .*source must be a text"),
        ("- {name: a, source: b, target: b}", "entry 1: .*nothing to change"),
        ("- {name: A b, source: b, target: c}", "entry 1: instruction name 'A b': expected lower-case"),
        ("- {name: aligned, source: b, target: c}", "entry 1: .*names another output member"),
        ("- {name: a, source: b, target: c}\n- {name: a, source: d, target: e}", "entry 2: name 'a' was used by entry 1"),
        ("- {name: a, source: b, target: c, strength: strong}", "entry 1: .*strength must be a number from -10 to 10, found 'strong'"),
        ("- {name: a, source: b, target: c, strength: .nan}", "strength must be a number from -10 to 10, found nan"),
        ("- {name: a, source: b, target: c, strength: true}", "found True"),
        ("- {name: a, source: b, target: c, strength: 11}", "found 11"),
        ("- {name: a, source: b, target: c, expects: [smile]}", r"expects must map attribute names to true or false, found \['smile'\]"),
        ("- {name: a, source: b, target: c, expects: {smile: 1}}", "expects must map attribute names"),
        ("- {name: a", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_told_where_and_why(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InstructionError, match=message) as caught:
        load_instructions(path)
    assert str(caught.value).startswith(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InstructionError, match=r"nowhere\.yaml: no such file"):
        load_instructions(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(InstructionError, match="is a folder"):
        load_instructions(str(tmp_path))
