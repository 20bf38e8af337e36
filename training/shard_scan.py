"""Find out what of a shard can be trained on, before the first step: the pipeline's index, its rules for samples, and every header.

L = latents of a picture, D = their width.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from pipeline.grouping import Group, picture_of
from pipeline.images import Limits, check_header
from pipeline.sample import SampleFailure, ShardFailure
from pipeline.shard_index import codec_of, index_shard, too_large
from pipeline.shard_list import Shard
from pipeline.storage import Storage
from pipeline.tar_index import Member, printable
from training.shard_files import DataError, ShardFile, expanded

ALIGNED, EDITS, LATENTS = "aligned.png", "edits.json", "latents.npy"
HEAD_BYTES = 64 << 10
MAKE_LATENTS = "python jobs/edit_dataset.py --keep latents --input SHARDS --output OUTPUT makes them: train on OUTPUT/shards"
LeftOut = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a training asks of each sample."""

    latents: bool = False
    image_ext: str = ""
    limits: Limits = field(default_factory=Limits)
    check: bool = True


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A sample to train on; `shape_LD` is (L, D) where the header of the latents was read."""

    key: str
    image_ext: str
    picture: Member
    latents: Member | None = None
    shape_LD: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A shard with the samples to train on, and what is left out: (shard, key, reason), the key empty for damage of the shard."""

    file: ShardFile
    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]


def scan_shard(shard: Shard, wanted: Wanted) -> Scan:
    """Index one shard. Raises DataError where the storage does not hand it out: to leave it out would change the data silently."""
    try:
        with _opened(shard, wanted.limits) as (file, stored, problem):
            return _scan(file, stored, problem, wanted)
    except OSError as error:
        raise DataError(
            f"shard {shard.name} cannot be read: {type(error).__name__}: {error} ({shard.url}); "
            "make it readable for every worker, or name the shards without it"
        ) from error


def picture_to_train_on(extensions: set[str], image_ext: str) -> tuple[str, str]:
    """Return the extension of the picture, or an empty one and the reason: the aligned face in output of the pipeline, never an edit."""
    if not image_ext and ALIGNED in extensions:
        return ALIGNED, ""
    if not image_ext and EDITS in extensions:
        return "", f"is output of edit_dataset that lost its {ALIGNED}: name the picture with image_ext, or write the shard again"
    return picture_of(extensions, image_ext)


def latent_shape(head: bytes, size: int) -> tuple[int, ...]:
    """Return the shape (L, D) that the header of a .npy file of `size` bytes tells. Raises ValueError with what is wrong with it."""
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    found = f"{dtype} {tuple(shape)} in {size} bytes"
    if dtype != np.float32 or len(shape) != 2 or file.tell() + 4 * shape[0] * shape[1] != size:
        raise ValueError(f"expected float32 of shape (L, D), found {found}")
    return tuple(shape)


@contextmanager
def _opened(shard: Shard, limits: Limits) -> Iterator[tuple[BinaryIO, ShardFile, str]]:
    """Open a shard, expanded where it is compressed: the file, what is stored, and what went wrong while it was expanded."""
    source = Storage(shard.url).open_read()
    try:
        size, codec = source.seek(0, os.SEEK_END), ""
        source.seek(0)
        codec, problem = codec_of(source), ""
        if codec:
            source, problem = expanded(source, limit_gb=limits.shard_gb)
        yield source, ShardFile(name=shard.name, url=shard.url, size_bytes=size, codec=codec), problem
    finally:
        source.close()


def _scan(file: BinaryIO, stored: ShardFile, problem: str, wanted: Wanted) -> Scan:
    index = index_shard(file, problem=problem)
    entries: list[Entry] = []
    left_out: list[LeftOut] = []
    for group in index.groups:
        try:
            entries.append(_entry(group, file, wanted))
        except SampleFailure as failure:
            left_out.append((stored.name, printable(group.key), failure.reason))
    if index.damage is not None:
        left_out.append((stored.name, "", str(ShardFailure(stored.name, index.damage))))
    return Scan(file=stored, entries=tuple(entries), left_out=tuple(left_out))


def _entry(group: Group, file: BinaryIO, wanted: Wanted) -> Entry:
    """Return what to read of a sample. Raises SampleFailure with the reason to leave it out."""
    ext, no_picture = picture_to_train_on(group.extensions, wanted.image_ext)
    problem = too_large(group, wanted.limits) or group.problem or no_picture
    members = dict(group.members)
    if not problem and wanted.latents and LATENTS not in members:
        problem = f"holds no {LATENTS}; {MAKE_LATENTS}"
    if problem:
        raise SampleFailure("read", problem)
    picture, latents = members[ext], members[LATENTS] if wanted.latents else None
    if wanted.check:
        _check_picture(file, picture, wanted.limits)
    shape_LD = _check_latents(file, latents) if wanted.check and latents is not None else None
    return Entry(key=group.key, image_ext=ext, picture=picture, latents=latents, shape_LD=shape_LD)


def _check_picture(file: BinaryIO, picture: Member, limits: Limits) -> None:
    try:
        check_header(_head(file, picture), limits)
    except SampleFailure:
        if picture.size <= HEAD_BYTES:
            raise
        check_header(_head(file, picture, picture.size), limits)  # some formats keep their header at the end


def _check_latents(file: BinaryIO, latents: Member) -> tuple[int, ...]:
    try:
        return latent_shape(_head(file, latents), latents.size)
    except ValueError as error:
        raise SampleFailure("read", f"its {LATENTS} cannot be used: {error}") from error


def _head(file: BinaryIO, member: Member, most: int = HEAD_BYTES) -> bytes:
    file.seek(member.offset)
    return file.read(min(member.size, most))
