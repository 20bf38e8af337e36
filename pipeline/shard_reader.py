"""Read a WebDataset shard from any fsspec URL, one sample in memory at a time, and lose nothing.

A shard is indexed before the first sample is handed out (headers only; a remote or compressed shard is first copied to a
temporary file). So the checksum, the number of samples and every damage are known at the start, members of one sample that lie
apart are put together, and a key that comes again is noticed.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, Self, cast

from pipeline.grouping import Group, picture_of
from pipeline.images import Limits
from pipeline.sample import Damage, FailedSample, Sample, ShardFailure
from pipeline.shard_index import codec_of, expand, index_shard, too_large
from pipeline.shard_list import shard_name
from pipeline.storage import Storage, copy_hashed
from pipeline.tar_index import Member, printable

STAGE = "read"
SPOOL_MEMORY_BYTES = 32 << 20


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
                self._index(problem=problem)
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
        codec = codec_of(source)
        if storage.is_local and not codec:
            self.sha256, self.size_bytes = copy_hashed(source)
            return source, ""
        raw = stack.enter_context(_spool())
        self.sha256, self.size_bytes = copy_hashed(source, raw)
        if not codec:
            return raw, ""
        raw.seek(0)
        expanded = stack.enter_context(_spool())
        return expanded, expand(raw, expanded, codec=codec, limit_gb=self.limits.shard_gb)

    def _index(self, *, problem: str) -> None:
        index = index_shard(self._file, problem=problem)
        self._groups, self.notes = index.groups, index.notes
        self.damage = ShardFailure(self.name, index.damage) if index.damage is not None else None

    def _load(self, group: Group) -> Sample | FailedSample:
        reason = too_large(group, self.limits)
        if reason:
            return self._failed(group, reason, members=())
        members = tuple((ext, self._bytes(member)) for ext, member in group.members)
        ext, picture_reason = picture_of(group.extensions, self.image_ext)
        reason = group.problem or _shrunk(group, members) or picture_reason
        if reason:
            names = [printable(member.name) for _, member in group.members]
            return self._failed(group, reason, members=tuple(zip(names, (data for _, data in members), strict=True)))
        return Sample(key=group.key, shard=self.name, index=group.index, members=dict(members), image_ext=ext)

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
