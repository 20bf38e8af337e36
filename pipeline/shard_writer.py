"""Write shards whose bytes depend on their content alone: sorted members, no times, no owners."""

import hashlib
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pipeline.sample import FailedSample
from pipeline.storage import Storage

RECORD_BYTES = 10240
BLOCK_BYTES = 512
REASON_EXT = "quarantine.json"


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """What was written, to be named by the ledger."""

    sha256: str
    size_bytes: int
    samples: int


class ShardWriter:
    """Write a tar to a path of a Storage, one sample at a time; leaving the context normally ends and syncs it.

    The caller chooses a temporary path and moves the file when it is whole. After an exception the file is left
    without its end mark.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._digest = hashlib.sha256()
        self._size = 0
        self._keys: set[str] = set()
        self._finished: WrittenFile | None = None

    def __enter__(self) -> Self:
        self._file = self._storage.open_write(self._path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._file.close()
            return
        end = 2 * BLOCK_BYTES
        self._write(bytes(end + -(self._size + end) % RECORD_BYTES))
        self._storage.close_durably(self._path, self._file)
        self._finished = WrittenFile(sha256=self._digest.hexdigest(), size_bytes=self._size, samples=len(self._keys))

    @property
    def finished(self) -> WrittenFile:
        """Return digest and size; only after the context was left without an exception."""
        if self._finished is None:
            raise ValueError(f"{self._path}: the shard is not finished")
        return self._finished

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample, its members sorted by extension.

        Raises ValueError when the key was written before or a name breaks the WebDataset rule.
        """
        base = key.rsplit("/", 1)[-1]
        if not base or "." in base or "\0" in key:
            raise ValueError(f"{self._path}: {key!r} is no WebDataset key: its last part must be non-empty, without dots")
        if key in self._keys:
            raise ValueError(f"{self._path}: the key {key!r} was written before")
        bad = [ext for ext in members if not ext or "/" in ext or "\0" in ext]
        if bad or not members:
            raise ValueError(f"{self._path}: sample {key!r} has no members, or one with an unusable extension: {bad}")
        self._keys.add(key)
        for ext in sorted(members):
            self._member(f"{key}.{ext}", members[ext])

    def write_free(self, key: str, members: Mapping[str, bytes]) -> str:
        """Append one sample under its key, or where that was written before under one that is free; return which."""
        taken, count = key, 1
        while key in self._keys:
            key, count = f"{taken}~{count}", count + 1
        self.write(key, members)
        return key

    def _member(self, name: str, data: bytes) -> None:
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(data), 0o644
        self._write(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        self._write(data)
        self._write(bytes(-len(data) % BLOCK_BYTES))

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._size += len(data)
        self._file.write(data)


class QuarantineWriter(ShardWriter):
    """Write failed samples with their original bytes and a KEY.quarantine.json each: a shard that can be fed back."""

    def write_failed(self, failed: FailedSample) -> None:
        """Append one failed sample; when its key is taken or unusable, the index of the sample is added to it."""
        entry = {"stage": failed.stage, "reason": failed.reason, "shard": failed.shard, "index": failed.index, "key": failed.key}
        key = self._free_key(failed)
        members: dict[str, bytes] = {}
        for name, data in failed.members:
            ext = name[len(failed.key) + 1 :] if name.startswith(f"{failed.key}.") else "bin"
            while ext in members:
                ext = f"again.{ext}"
            members[ext] = data
        members[REASON_EXT] = (json.dumps(entry, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()
        self.write(key, members)

    def _free_key(self, failed: FailedSample) -> str:
        folder, slash, base = failed.key.rpartition("/")
        key = folder + slash + (base.replace(".", "_") or "unnamed")
        while key in self._keys:
            key = f"{key}~{failed.index}"
        return key
