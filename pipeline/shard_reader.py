"""Read a WebDataset shard from any fsspec URL, one sample in memory at a time, and lose nothing.

A shard is indexed before the first sample is handed out (headers only; a remote or compressed shard is first copied to a
temporary file). So the checksum, the number of samples and every damage are known at the start, members of one sample that lie
apart are put together, and a key that comes again is noticed.
"""

import bz2
import gzip
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, Self, cast

from pipeline.grouping import Group, group_members, picture_of
from pipeline.images import Limits
from pipeline.sample import Damage, FailedSample, Sample, ShardFailure
from pipeline.shard_list import shard_name
from pipeline.storage import CHUNK_BYTES, Storage, copy_hashed
from pipeline.tar_index import Member, TarIndex, index_tar, printable

STAGE = "read"
SPOOL_MEMORY_BYTES = 32 << 20
CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}


class ShardReader:
    """Iterate over the samples of one shard: a Sample, or a FailedSample with the original bytes.

    Use as a context manager. Entering raises ShardFailure when the file cannot be opened. Damage inside the file is no exception:
    `damage` describes it, and every sample before it is handed out. An OSError while iterating means that the storage failed, not the
    shard: try again. `sha256` and `size_bytes` are those of the file as stored.
    """

    def __init__(self, url: str, *, limits: Limits | None = None, image_ext: str = "") -> None:
        self.url = url
        self.name = shard_name(url)
        self.limits = limits or Limits()
        self.image_ext = image_ext
        self.sha256 = ""
        self.size_bytes = 0
        self.damage: ShardFailure | None = None
        self.notes: tuple[str, ...] = ()
        self._stack = ExitStack()
        self._groups: list[Group] = []

    def __enter__(self) -> Self:
        try:
            with ExitStack() as stack:
                self._file, problem = self._open(stack)
                self._index(self._file.seek(0, os.SEEK_END), problem=problem)
                self._stack = stack.pop_all()
        except OSError as error:
            reason = f"the shard cannot be opened: {type(error).__name__}: {error} ({self.url})"
            raise ShardFailure(self.name, Damage(reason=reason)) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def __len__(self) -> int:
        """Return the number of samples, failed ones included."""
        return len(self._groups)

    def __iter__(self) -> Iterator[Sample | FailedSample]:
        return (self._load(group) for group in self._groups)

    def _open(self, stack: ExitStack) -> tuple[BinaryIO, str]:
        """Return a seekable, uncompressed file, and what went wrong while expanding it."""
        storage = Storage(self.url)
        source = stack.enter_context(storage.open_read())
        magic = source.read(6)
        source.seek(0)
        codec = next((name for start, name in CODECS.items() if magic.startswith(start)), "")
        if storage.is_local and not codec:
            self.sha256, self.size_bytes = copy_hashed(source)
            return source, ""
        raw = stack.enter_context(_spool())
        self.sha256, self.size_bytes = copy_hashed(source, raw)
        if not codec:
            return raw, ""
        raw.seek(0)
        expanded = stack.enter_context(_spool())
        return expanded, _expand(raw, expanded, codec=codec, limit_gb=self.limits.shard_gb)

    def _index(self, size: int, *, problem: str) -> None:
        index = index_tar(self._file, size)
        damage = index.damage
        if problem:  # the decompressor knows better why the archive ends here
            damage = Damage(reason=problem, offset=size, expected="a whole compressed stream", found=f"{size} bytes of it")
        if damage is None and not index.members:
            damage = Damage(reason="the shard is empty: an archive without any file", expected="at least one sample", found="none")
        self._groups, self.notes = group_members(index)
        if damage is not None:
            self.damage = ShardFailure(self.name, damage)
            self._doubt_last(index, damage)

    def _doubt_last(self, index: TarIndex, damage: Damage) -> None:
        """Fail the sample that the damage touches: nobody can say which of its members are gone."""
        if not index.members or index.after_end:
            return
        last = index.members[-1]
        for group in self._groups:
            if any(member is last for _, member in group.members):
                why = f"the shard is damaged right behind this sample, which may lack members: {damage.reason}"
                group.problem = group.problem or why

    def _load(self, group: Group) -> Sample | FailedSample:
        reason = self._too_large(group)
        if reason:
            return self._failed(group, reason, members=())
        members = tuple((ext, self._bytes(member)) for ext, member in group.members)
        ext, picture_reason = picture_of(group.extensions, self.image_ext)
        reason = group.problem or _shrunk(group, members) or picture_reason
        if reason:
            names = [printable(member.name) for _, member in group.members]
            return self._failed(group, reason, members=tuple(zip(names, (data for _, data in members), strict=True)))
        return Sample(key=group.key, shard=self.name, index=group.index, members=dict(members), image_ext=ext)

    def _too_large(self, group: Group) -> str:
        total = sum(member.size for _, member in group.members)
        largest = max((member for _, member in group.members), key=lambda member: member.size)
        kept = "its bytes stay in the input shard only"
        if largest.size > self.limits.member_mb << 20:
            where = f"the member {printable(largest.name)!r} has {largest.size} bytes (from byte {largest.offset} of the shard)"
            return f"{where}, the limit is {self.limits.member_mb} MiB; {kept}"
        if total > self.limits.sample_mb << 20:
            return f"the sample has {total} bytes in {len(group.members)} members, the limit is {self.limits.sample_mb} MiB; {kept}"
        return ""

    def _failed(self, group: Group, reason: str, *, members: tuple[tuple[str, bytes], ...]) -> FailedSample:
        return FailedSample(key=printable(group.key), shard=self.name, index=group.index, stage=STAGE, reason=reason, members=members)

    def _bytes(self, member: Member) -> bytes:
        self._file.seek(member.offset)
        return self._file.read(member.size)


def _shrunk(group: Group, members: tuple[tuple[str, bytes], ...]) -> str:
    for (_, member), (_, data) in zip(group.members, members, strict=True):
        if len(data) != member.size:
            return f"the shard changed while it was read: {printable(member.name)!r} has {len(data)} bytes now, expected {member.size}"
    return ""


def _spool() -> BinaryIO:
    """Open a temporary file that lives in memory while it is small and vanishes with the process."""
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=SPOOL_MEMORY_BYTES))


def _decompressor(source: BinaryIO, codec: str) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    if codec == "gzip":
        return gzip.GzipFile(fileobj=source, mode="rb")
    return bz2.BZ2File(source) if codec == "bzip2" else lzma.LZMAFile(source)


def _expand(source: BinaryIO, target: BinaryIO, *, codec: str, limit_gb: int) -> str:
    """Decompress as far as possible; return what went wrong, or an empty string."""
    opened = _decompressor(source, codec)
    written = 0
    while True:
        try:
            chunk = opened.read1(CHUNK_BYTES)  # unlike read, keeps what was expanded before an error
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            return f"the {codec} stream is cut or damaged: {error}"
        if not chunk:
            return ""
        written += target.write(chunk)
        if written > limit_gb << 30:
            return f"the shard expands to more than the limit of {limit_gb} GiB"
