"""What an output was begun with: written before its first shard, read by whoever goes on with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.kept_running import FILE, Kept, keep, read_kept
from pipeline.settings import Running
from pipeline.storage import Storage

KEPT = Kept(running=Running(backend="heads=onnxruntime", precision="float32", batch_size=8), threads=3)


def test_an_unfinished_output_says_it_in_its_work_folder(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert read_kept(storage) is None
    keep(storage, KEPT)
    assert read_kept(storage) == KEPT


def test_a_finished_one_in_its_record(tmp_path: Path) -> None:
    used = {"backend": "eager", "precision": "bfloat16", "batch_size": 32}
    record = {name: {"asked": "auto", "used": value} for name, value in used.items()} | {"workers": {"threads": 2}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert read_kept(Storage(str(tmp_path))) == Kept(running=Running(**used), threads=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"backend": "torch-cpu"}', '{"backend": {"used": "eager"}, "workers": {}}'])
def test_records_that_do_not_say_it_count_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(text)
    assert read_kept(Storage(str(tmp_path))) is None
