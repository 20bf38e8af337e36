"""Checkpoints of a training: nested dicts and lists of tensors and plain values in one safetensors file, so that nothing is unpickled.

The newest one that can be read counts: each is written whole or not at all, and the last ones before it stay. A digest in the header
covers every byte of the file, so that garbled weights are passed over too.
"""

from __future__ import annotations

import hashlib
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
MARK, TREE, DIGEST = "tensor:", "tree", "sha256"
UNKNOWN = "0" * 64  # stands for the digest while it is computed
NUMBERED = "numbered:"  # JSON turns the keys of a dict into texts: optimisers number their parameters
TEXT = "text:"  # before a text that would be read as one of these marks


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
            return {_plain_key(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, str):
            return _marked(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: {value!r}")

    return _signed(save(tensors, metadata={TREE: json.dumps(plain(tree)), DIGEST: UNKNOWN}))


def unpack_tree(data: bytes) -> dict[str, object]:
    """Read back what `pack_tree` wrote; tuples come back as lists. Raises CheckpointError."""
    try:
        header = json.loads(data[8 : _header_end(data)])
        if header["__metadata__"][DIGEST] != _digest(data, header["__metadata__"][DIGEST]):
            raise ValueError("its bytes are not those that were written")
        tensors, tree = load(data), json.loads(header["__metadata__"][TREE])
        result = _filled(tree, tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"not a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(result, dict):
        raise CheckpointError(f"not a checkpoint: expected a dict, found a {type(result).__name__}")
    return result


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _entry(digest: str) -> bytes:
    return f'"{DIGEST}":"{digest}"'.encode()  # quotes are escaped inside the tree, so nothing else reads like this


def _digest(data: bytes, found: str) -> str:
    """Return the digest of all bytes, with `found` in the header unknown."""
    end = _header_end(data)
    digest = hashlib.sha256(data[:end].replace(_entry(found), _entry(UNKNOWN)))
    digest.update(memoryview(data)[end:])
    return digest.hexdigest()


def _signed(data: bytes) -> bytes:
    end = _header_end(data)
    return data[:end].replace(_entry(UNKNOWN), _entry(_digest(data, UNKNOWN))) + data[end:]


def _filled(value: object, tensors: Mapping[str, Tensor]) -> object:
    """Put the tensors back where their names stand, and take the marks off keys and texts."""
    if isinstance(value, str):
        return tensors[value] if value.startswith(MARK) else value.removeprefix(TEXT)
    if isinstance(value, dict):
        return {_key(key): _filled(item, tensors) for key, item in value.items()}
    return [_filled(item, tensors) for item in value] if isinstance(value, list) else value


def _marked(text: str) -> str:
    return TEXT + text if text.startswith((MARK, NUMBERED, TEXT)) else text


def _plain_key(key: object) -> str:
    if isinstance(key, str):
        return _marked(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return f"{NUMBERED}{key}"
    raise TypeError(f"a checkpoint cannot hold the key {key!r}: expected a text or a whole number")


def _key(text: str) -> str | int:
    return int(text.removeprefix(NUMBERED)) if text.startswith(NUMBERED) else text.removeprefix(TEXT)


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
        """Write a checkpoint and drop those beyond the newest `keep`, and later ones: they were passed over."""
        self._storage.write(self._path(step), pack_tree({"step": step, **tree}))
        steps = self.steps()
        kept = [other for other in steps if other <= step][-self._keep :]
        for other in set(steps) - set(kept):
            self._storage.remove(self._path(other))

    def newest(self) -> dict[str, object] | None:
        """Return the newest readable checkpoint, None where there is none; one that cannot be read is said and passed over."""
        for step in reversed(self.steps()):
            try:
                return unpack_tree(self._storage.read(self._path(step)))
            except (CheckpointError, FileNotFoundError) as error:
                print(f"WARNING: checkpoint {self._path(step)} is passed over: {error}", file=sys.stderr, flush=True)
        return None

    @staticmethod
    def _path(step: int) -> str:
        return f"{FOLDER}/step-{step:08d}.safetensors"
