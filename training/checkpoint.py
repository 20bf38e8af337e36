"""Checkpoints of a training: nested dicts and lists of tensors and plain values in one safetensors file, so that nothing is unpickled.

The newest one that can be read counts: each is written whole or not at all, and the last ones before it stay.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.storage import Storage

FOLDER = "checkpoints"
NAME = re.compile(r"step-(\d{8})\.safetensors")
MARK, TREE = "tensor:", "tree"
NUMBERED = "numbered:"  # JSON turns the keys of a dict into texts: optimisers number their parameters


class CheckpointError(ValueError):
    """A checkpoint does not belong to this training, or cannot be read."""


def pack_tree(tree: Mapping[str, object]) -> bytes:
    """Return the bytes of a nested structure. Raises TypeError where it holds anything else than tensors and plain values."""
    tensors: dict[str, Tensor] = {}

    def plain(value: object) -> object:
        if isinstance(value, Tensor):
            name = f"{MARK}{len(tensors)}"
            tensors[name] = value.detach().cpu().clone().contiguous()
            return name
        if isinstance(value, Mapping):
            return {f"{NUMBERED}{key}" if isinstance(key, int) else str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: {value!r}")

    return save(tensors, metadata={TREE: json.dumps(plain(tree))})


def unpack_tree(data: bytes) -> dict[str, object]:
    """Read back what `pack_tree` wrote; tuples come back as lists. Raises CheckpointError."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        tensors, tree = load(data), json.loads(header["__metadata__"][TREE])
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"not a checkpoint: {type(error).__name__}: {error}") from error

    def filled(value: object) -> object:
        if isinstance(value, str) and value.startswith(MARK):
            return tensors[value]
        if isinstance(value, dict):
            return {_key(key): filled(item) for key, item in value.items()}
        return [filled(item) for item in value] if isinstance(value, list) else value

    result = filled(tree)
    assert isinstance(result, dict)
    return result


def _key(text: str) -> str | int:
    return int(text.removeprefix(NUMBERED)) if text.startswith(NUMBERED) else text


class Checkpoints:
    """The checkpoints in OUTPUT/checkpoints; OUTPUT is a folder or an fsspec URL that all workers see."""

    def __init__(self, output: str, *, keep: int) -> None:
        self._storage = Storage(output)
        self._keep = keep

    def steps(self) -> list[int]:
        """Return the steps that there are checkpoints of, ascending."""
        found = [NAME.fullmatch(path.rsplit("/", 1)[-1]) for path in self._storage.files(FOLDER)]
        return sorted(int(match[1]) for match in found if match)

    def write(self, step: int, tree: Mapping[str, object]) -> None:
        """Write a checkpoint and drop those beyond the newest `keep`."""
        self._storage.write(self._path(step), pack_tree({"step": step, **tree}))
        for old in self.steps()[: -self._keep]:
            self._storage.remove(self._path(old))

    def newest(self) -> dict[str, object] | None:
        """Return the newest readable checkpoint, None where there is none; one that cannot be read is said and passed over."""
        for step in reversed(self.steps()):
            try:
                return unpack_tree(self._storage.read(self._path(step)))
            except (CheckpointError, OSError) as error:
                print(f"WARNING: checkpoint {self._path(step)} is passed over: {error}", file=sys.stderr, flush=True)
        return None

    @staticmethod
    def _path(step: int) -> str:
        return f"{FOLDER}/step-{step:08d}.safetensors"
