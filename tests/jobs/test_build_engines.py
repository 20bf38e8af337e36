"""What jobs/build_engines.py writes on a machine without TensorRT, and what it says."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import onnx
import pytest

from tests.commands import Command
from tests.models.small_pack import write_small_pack
from tests.trt_engines.conftest import cache  # noqa: F401

JOB = "jobs/build_engines.py"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_pack(tmp_path_factory.mktemp("pack"))


@pytest.mark.parametrize(("precision", "kind"), [("float32", onnx.TensorProto.FLOAT), ("float16", onnx.TensorProto.FLOAT16)])
def test_without_tensorrt_the_graphs_are_written_and_the_reason_is_said(
    command: Command, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, kind: int
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    ended = command(JOB, ["--pack", str(pack), "--output", str(tmp_path), "--precision", precision])
    assert ended.code == 3, ended.err
    assert "no engine was built: TensorRT is not installed" in ended.err and f"{tmp_path} has the ONNX files" in ended.err
    assert ended.result == json.loads((tmp_path / "graphs.json").read_text())
    assert ended.result["precision"] == precision
    graphs = ended.result["graphs"]
    assert isinstance(graphs, dict) and list(graphs) == ["encoder", "trunk", "heads", "generator"]
    for entry in graphs.values():
        data = (tmp_path / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        found = onnx.load_from_string(data)
        assert [value.name for value in found.graph.input] == list(entry["inputs"])
        assert kind in {value.data_type for value in found.graph.initializer} and entry["opset"] == 18
    assert graphs["encoder"]["inputs"] == {"image": ["batch", 3, 64, 64]}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--inverter", "hyperstyle"], "not all of it can be exported: inverter hyperstyle: only encoders are graphs"),
        (["--editor", "sefa"], "editor sefa: only a HyperEditor and its generator are graphs"),
        (["--editor", "hypereditr"], "no editor 'hypereditr'"),
        (["--batch_size", "0"], "--batch_size 0: expected 1 or more"),
    ],
)
def test_wrong_arguments_are_named(command: Command, pack: Path, tmp_path: Path, flags: list[str], said: str) -> None:
    ended = command(JOB, ["--pack", str(pack), "--output", str(tmp_path / "out"), *flags])
    assert ended.code == 2 and said in ended.err and not ended.out and not (tmp_path / "out").exists()
