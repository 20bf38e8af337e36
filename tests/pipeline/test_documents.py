"""The card and the Croissant file of an output: true to the run, read again by the libraries of their formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import mlcroissant as mlc
import pytest
import yaml

from pipeline.croissant import EDITED, MEANINGS, croissant
from pipeline.dataset_card import card, size_category
from pipeline.documents import write_documents
from pipeline.manifest import SCHEMA
from tests.pipeline.small_output import SMILE, write_run, write_shard

MORE = {
    "output": "s3://bucket/edited/", "ended": "2031-05-04 12:02:00 UTC", "inverter": "e4e", "editor": "hypereditor",
    "counts": {"shards": 1, "samples": 3, "quarantined": 0, "images": 3},
    "pack": {"name": "portraits64", "sha256": "ab" * 32, "size": 64, "licence": "Apache-2.0"},
    "backend": {"asked": "eager", "used": "eager", "ran": ["torch-cpu"], "notes": []}, "precision": {"asked": "float32", "used": "float32"},
    "versions": {"hyperedit": "0.1.0"},
}  # fmt: skip


def told(out: Path, instruction: Mapping[str, object]) -> dict[str, object]:
    """Let run.json say an instruction as runs write it; return it."""
    record = json.loads((out / "run.json").read_text()) | {"instructions": [instruction]}
    (out / "run.json").write_text(json.dumps(record))
    return record


@pytest.fixture
def output(tmp_path: Path) -> Path:
    scores = {"smile": {"success_rate": 0.75, "same_person_rate": 1.0, "lpips": 0.125}}
    write_run(tmp_path, [SMILE], **(MORE | {"scores": scores}))  # type: ignore[arg-type]
    told(tmp_path, {"name": "smile", "source": "a face", "target": "a smiling face", "strength": 1.2, "expects": {"smile": True}})
    write_shard(tmp_path, "b-0", ["one", "two", "three"], instructions=[SMILE])
    write_documents(str(tmp_path))
    return tmp_path


def test_the_card_says_what_the_run_says(output: Path) -> None:
    text = (output / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "other" and "synthetic" in front["tags"] and front["size_categories"] == ["n<1K"]
    assert {entry["data_files"] for entry in front["configs"]} == {"shards/*.tar", "manifests/*.parquet"}
    assert "75.0 % | 100.0 % | 0.125 |" in text and "fill it in before you publish" in text and "sheet.png" in text
    assert (output / "sheet.png").is_file() and (output / "report.html").is_file()


def test_croissant_reads_the_manifests_by_what_the_file_says(output: Path) -> None:
    dataset = mlc.Dataset(output / "croissant.json")
    rows = list(dataset.records("edits"))
    assert sorted(row["edits/key"] for row in rows) == [b"one", b"three", b"two"]
    assert {row["edits/instruction"] for row in rows} == {b"smile"} and set(rows[0]) == {f"edits/{name}" for name in SCHEMA.names}


def test_every_column_has_a_meaning() -> None:
    assert list(MEANINGS) == SCHEMA.names


def test_texts_stay_in_their_cells(tmp_path: Path) -> None:
    write_run(tmp_path, [], **MORE)  # type: ignore[arg-type]
    record = told(tmp_path, {"name": "odd", "source": "a | b", "target": "two\nlines", "strength": 1.5})
    text = card(record)
    assert "| odd | a \\| b | two lines | 1.5 |  |  |  |" in text
    record["instructions"] = []
    assert "Instructions and what became" not in card(record) and "aligned and inverted" in card(record)
    assert "aligned and inverted" in json.loads(croissant(record, EDITED))["description"]


@pytest.mark.parametrize(("samples", "name"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**9, "n>10M")])
def test_sizes_are_those_of_the_hub(samples: int, name: str) -> None:
    assert size_category(samples) == name
