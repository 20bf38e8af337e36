"""Checkpoint files: whatever a training's state may hold comes back, whatever is no checkpoint is refused, the newest good one counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.checkpoint import FOLDER, CheckpointError, Checkpoints, pack_tree, unpack_tree

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
MARKED = ("tensor:0", "tensor:", "numbered:1", "numbered:", "text:", "text:tensor:0", "text:text:numbered:2", "", "step", "tree")


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    stream = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    tensor = (torch.randn(shape, generator=stream) * 9).to(draw(st.sampled_from(DTYPES)))
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


TEXTS = st.sampled_from(MARKED) | st.text(max_size=5)
LEAVES = tensors() | TEXTS | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
KEYS = TEXTS | st.integers(-3, 1000)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)


def equal(a: object, b: object) -> bool:
    """Say whether two trees hold the same, down to types, dtypes, shapes and bits."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=150, deadline=None)
@example({"a": {0: "tensor:0", "numbered:0": torch.tensor(1.5)}})
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_every_tree_comes_back(tree: dict[str, object]) -> None:
    assert equal(unpack_tree(pack_tree(tree)), tree)


def test_tuples_become_lists_and_views_are_stored_whole() -> None:
    table = torch.arange(6).reshape(2, 3)
    found = unpack_tree(pack_tree({"betas": (0.9, (1,)), "a": table.T, "b": table[:, 1], "again": table[:, 1]}))
    assert found["betas"] == [0.9, [1]]
    assert equal(found["a"], table.T) and equal(found["b"], table[:, 1]) and equal(found["again"], table[:, 1])


@pytest.mark.parametrize("value", [object(), {1.5: 1}, {True: 1}, {None: 1}, b"bytes", {1, 2}])
def test_what_cannot_be_kept_is_refused_when_it_is_written(value: object) -> None:
    with pytest.raises(TypeError, match="a checkpoint cannot hold"):
        pack_tree({"a": value})


@settings(max_examples=150, deadline=None)
@example(b"")
@example(b"\x02\0\0\0\0\0\0\0[]")
@example(b"\x02\0\0\0\0\0\0\0{}")
@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda data: len(data).to_bytes(8, "little") + data))
def test_garbage_is_no_checkpoint(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        unpack_tree(data)


WHOLE = pack_tree({"step": 3, "net": {"weight": torch.arange(40.0)}, "rates": [0.5, {1: "text"}]})


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_checkpoint_is_refused(length: int) -> None:
    with pytest.raises(CheckpointError):
        unpack_tree(WHOLE[:length])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_garbled_byte_anywhere_is_refused(place: int, change: int) -> None:
    garbled = bytearray(WHOLE)
    garbled[place] ^= change
    with pytest.raises(CheckpointError):
        unpack_tree(bytes(garbled))


def state(step: int) -> dict[str, object]:
    return {"weight": torch.full((3,), float(step))}


def file_of(output: Path, step: int) -> Path:
    return output / FOLDER / f"step-{step:08d}.safetensors"


def test_the_newest_counts_and_the_last_ones_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=2)
    assert checkpoints.newest() is None and checkpoints.steps() == []
    for step in (10, 20, 30):
        checkpoints.write(step, state(step))
    assert checkpoints.steps() == [20, 30]
    assert equal(checkpoints.newest(), {"step": 30, **state(30)})


def test_other_files_are_neither_read_nor_pruned(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=1)
    checkpoints.write(10, state(10))
    others = [tmp_path / FOLDER / name for name in ("step-00000099.safetensors.part", "notes.txt", "step-9.safetensors")]
    for other in others:
        other.write_bytes(b"x")
    checkpoints.write(20, state(20))
    assert checkpoints.steps() == [20] and all(other.exists() for other in others)


def test_unreadable_ones_are_said_passed_over_and_dropped_by_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=3)
    for step in (10, 20, 30):
        checkpoints.write(step, state(step))
    file_of(tmp_path, 30).write_bytes(b"")
    file_of(tmp_path, 20).write_bytes(file_of(tmp_path, 20).read_bytes()[:-1])
    assert equal(checkpoints.newest(), {"step": 10, **state(10)})
    said = capsys.readouterr().err
    assert said.count("WARNING") == 2 and file_of(tmp_path, 30).name in said and file_of(tmp_path, 20).name in said
    checkpoints.write(15, state(15))
    assert checkpoints.steps() == [10, 15]  # those that were passed over come again
    file_of(tmp_path, 10).write_bytes(b"x")
    file_of(tmp_path, 15).write_bytes(b"x")
    assert checkpoints.newest() is None
