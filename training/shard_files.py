"""Read byte ranges of many shards, from several threads at once: local files by file descriptor, remote ones by ranged requests."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import BinaryIO, NamedTuple, cast

from fsspec import AbstractFileSystem

from pipeline.images import Limits
from pipeline.shard_index import codec_of, expand
from pipeline.storage import Storage

MOST_OPEN = 64


class DataError(ValueError):
    """Training data cannot be used; the message says which shard and sample, why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One shard as it was indexed: `size_bytes` as stored, `codec` empty where it is not compressed."""

    name: str
    url: str
    size_bytes: int
    codec: str = ""


class Span(NamedTuple):
    """A range of bytes of the (uncompressed) shard number `shard`."""

    shard: int
    offset: int
    size: int


class ShardFiles:
    """Read spans of shards. At most `most_open` files are held open; a compressed shard is expanded to a temporary file for that time.

    May be pickled: the copy opens its own files.
    """

    def __init__(self, files: Sequence[ShardFile], *, most_open: int = MOST_OPEN) -> None:
        self.files = tuple(files)
        self.most_open = most_open
        self._storages = [Storage(file.url) for file in self.files]
        self._handles: OrderedDict[int, _Handle] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[ShardFiles], tuple[tuple[ShardFile, ...]]]:
        return type(self), (self.files,)

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the bytes of each span. Raises DataError where a shard is not what was indexed, OSError where the storage fails."""
        found: dict[Span, bytes] = {}
        remote: dict[AbstractFileSystem, list[Span]] = {}
        for span in spans:
            storage = self._storages[span.shard]
            if storage.is_local or self.files[span.shard].codec:
                found[span] = self._handle(span.shard).read(span)
            else:
                remote.setdefault(storage.fs, []).append(span)
        for fs, wanted in remote.items():
            found |= zip(wanted, self._fetch(fs, wanted), strict=True)
        for span in spans:
            if len(found[span]) != span.size:
                raise self._changed(span.shard, f"{span.size} bytes at byte {span.offset}", found=f"{len(found[span])} bytes")
        return [found[span] for span in spans]

    def _fetch(self, fs: AbstractFileSystem, spans: Sequence[Span]) -> list[bytes]:
        """Ask for all spans at once: a filesystem that can fetches them side by side."""
        paths = [self._storages[span.shard].path() for span in spans]
        starts, ends = [span.offset for span in spans], [span.offset + span.size for span in spans]
        return cast(list[bytes], fs.cat_ranges(paths, starts, ends, on_error="raise"))

    def _handle(self, shard: int) -> _Handle:
        with self._lock:
            handle = self._handles.pop(shard, None) or _Handle(self._open(shard))
            self._handles[shard] = handle
            while len(self._handles) > self.most_open:
                self._handles.popitem(last=False)
        return handle

    def _open(self, shard: int) -> BinaryIO:
        file, storage = self.files[shard], self._storages[shard]
        source = storage.open_read()
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        if size != file.size_bytes:
            source.close()
            raise self._changed(shard, f"{file.size_bytes} bytes", found=f"{size} bytes")
        return expanded(source)[0] if file.codec else source

    def _changed(self, shard: int, expected: str, *, found: str) -> DataError:
        file = self.files[shard]
        return DataError(
            f"shard {file.name} changed since it was opened: expected {expected}, found {found} ({file.url}); "
            "start the training again on data that nobody writes to"
        )


class _Handle:
    """An open file that closes when the last thread that reads from it lets go."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def read(self, span: Span) -> bytes:
        return os.pread(self.file.fileno(), span.size, span.offset)

    def __del__(self) -> None:
        self.file.close()


def expanded(source: BinaryIO, *, limit_gb: int = Limits().shard_gb) -> tuple[BinaryIO, str]:
    """Close a compressed file, and return a temporary one with its content, and what went wrong on the way (empty: nothing)."""
    with source:
        target = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - handed to the caller
        problem = expand(source, target, codec=codec_of(source), limit_gb=limit_gb)
    target.flush()
    return target, problem
