"""Know what a shard holds before anything is read out of it: samples, damage, and what may be taken from each sample.

The pipeline's reader and the training data both stand on this, so the two agree on what a sample is and which are broken.
"""

import bz2
import gzip
import lzma
import os
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline.grouping import Group, group_members
from pipeline.images import Limits
from pipeline.sample import Damage
from pipeline.storage import CHUNK_BYTES
from pipeline.tar_index import TarIndex, index_tar, printable

CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The samples of a shard in order; `damage` says where it stops being readable, `notes` what was put right."""

    groups: list[Group] = field(default_factory=list)
    damage: Damage | None = None
    notes: tuple[str, ...] = ()


def index_shard(file: BinaryIO, *, problem: str = "") -> ShardIndex:
    """Index a seekable, uncompressed shard; `problem` is what went wrong while it was expanded."""
    size = file.seek(0, os.SEEK_END)
    index = index_tar(file, size)
    damage = index.damage
    if problem:  # the decompressor knows better why the archive ends here
        damage = Damage(reason=problem, offset=size, expected="a whole compressed stream", found=f"{size} bytes of it")
    if damage is None and not index.members:
        damage = Damage(reason="the shard is empty: an archive without any file", expected="at least one sample", found="none")
    groups, notes = group_members(index)
    if damage is not None:
        _doubt_last(groups, index, damage)
    return ShardIndex(groups=groups, damage=damage, notes=notes)


def too_large(group: Group, limits: Limits) -> str:
    """Return why a sample is too large to be read into memory, or an empty string."""
    total = sum(member.size for _, member in group.members)
    largest = max((member for _, member in group.members), key=lambda member: member.size)
    kept = "its bytes stay in the input shard only"
    if largest.size > limits.member_mb << 20:
        where = f"the member {printable(largest.name)!r} has {largest.size} bytes (from byte {largest.offset} of the shard)"
        return f"{where}, the limit is {limits.member_mb} MiB; {kept}"
    if total > limits.sample_mb << 20:
        return f"the sample has {total} bytes in {len(group.members)} members, the limit is {limits.sample_mb} MiB; {kept}"
    return ""


def codec_of(file: BinaryIO) -> str:
    """Return how a file is compressed, by its first bytes; empty when it is not. Rewinds the file."""
    magic = file.read(6)
    file.seek(0)
    return next((name for start, name in CODECS.items() if magic.startswith(start)), "")


def expand(source: BinaryIO, target: BinaryIO, *, codec: str, limit_gb: int) -> str:
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


def _doubt_last(groups: list[Group], index: TarIndex, damage: Damage) -> None:
    """Fail the sample that the damage touches: nobody can say which of its members are gone."""
    if not index.members or index.after_end:
        return
    last = index.members[-1]
    for group in groups:
        if any(member is last for _, member in group.members):
            why = f"the shard is damaged right behind this sample, which may lack members: {damage.reason}"
            group.problem = group.problem or why


def _decompressor(source: BinaryIO, codec: str) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    if codec == "gzip":
        return gzip.GzipFile(fileobj=source, mode="rb")
    return bz2.BZ2File(source) if codec == "bzip2" else lzma.LZMAFile(source)
