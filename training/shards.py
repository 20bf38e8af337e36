"""Pictures to train on from WebDataset shards, one row per sample, in any order: what `edit_dataset` reads, and what it writes.

Opening lists every sample by the pipeline's own rules; reading takes only the bytes of the rows asked for. What cannot be used is
left out when the shards are opened, the same on every worker, so a row means the same sample wherever and whenever it is read.

N rows of the data set, B rows of a batch, C = 3, H = W = size, L latents of width D.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.images import ImageHWC, Limits, decode_image, fit_square
from pipeline.sample import SampleFailure
from pipeline.shard_list import InputError, list_shards
from training.rows import sample_rows
from training.shard_files import DataError, ShardFile, ShardFiles, Span
from training.shard_scan import LATENTS, MAKE_LATENTS, Entry, LeftOut, Scan, Wanted, latent_shape, scan_shard

__all__ = ["DataError", "ShardPictures", "sample_rows"]

OPENING_THREADS = 8
MEND = (
    "python jobs/edit_dataset.py puts such samples in quarantine and writes shards that train without them; or write the shard again "
    "without this sample"
)


class ShardPictures:
    """Rows are the usable samples in the order of the shards. May be read from several threads, and pickled without its open files.

    `keys` are the samples' keys, `shard_rows` how many rows each shard has, `left_out` the samples that cannot be used:
    (shard, key, reason), the key empty for damage of the shard itself. `fingerprint` changes with the names and sizes of the shards,
    and with the keys and places of what is read from them.
    """

    def __init__(self, scans: Sequence[Scan], *, size: int, limits: Limits) -> None:
        entries = [(shard, entry) for shard, scan in enumerate(scans) for entry in scan.entries]
        self.size = size
        self.left_out: tuple[LeftOut, ...] = tuple(item for scan in scans for item in scan.left_out)
        self.keys = tuple(entry.key for _, entry in entries)
        self.shard_rows = tuple(len(scan.entries) for scan in scans)
        self.fingerprint = _fingerprint(scans)
        self._limits = replace(limits, working_side=max(limits.working_side, size) if limits.working_side else 0)
        self._files = ShardFiles([scan.file for scan in scans])
        self._pictures_N3 = _spans((shard, entry.picture.offset, entry.picture.size) for shard, entry in entries)
        self._latents_N3 = _spans((shard, entry.latents.offset, entry.latents.size) for shard, entry in entries if entry.latents)
        self._shape_LD = entries[0][1].shape_LD

    @classmethod
    def open(
        cls, urls: str, *, size: int, latents: bool = False, image_ext: str = "", limits: Limits | None = None, check: bool = True
    ) -> ShardPictures:
        """Index the shards that `urls` names (what `edit_dataset --input` takes) for pictures of `size` x `size`.

        With `check`, the header of every picture is read, and of its latents, so that what no decoder takes is left out here.
        Raises InputError where `urls` names no shard, DataError where a shard is unreadable or no sample is left.
        """
        limits = limits or Limits()
        try:
            shards = list_shards(urls)
        except InputError as error:
            raise InputError(str(error).replace("--input", "--data", 1)) from error
        wanted = Wanted(latents=latents, image_ext=image_ext, limits=limits, check=check)
        with ThreadPoolExecutor(min(OPENING_THREADS, len(shards))) as pool:
            scans = list(pool.map(lambda shard: scan_shard(shard, wanted), shards))
        scans = _of_one_shape(scans)
        if not any(scan.entries for scan in scans):
            raise _nothing_left(urls, scans, latents=latents)
        return cls(scans, size=size, limits=limits)

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, row: int) -> str:
        """Return which sample a row is, as shard/key."""
        return f"{self._files.files[int(self._pictures_N3[row, 0])].name}/{self.keys[row]}"

    def pictures(self, rows: Tensor) -> Tensor:
        """Return pictures (B, 3, size, size) uint8: the centred square, upright, resized where it is not of that size.

        Raises DataError where a picture cannot be decoded.
        """
        image_BCHW = torch.empty(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        chosen = self._chosen(rows)
        for place, (row, data) in enumerate(zip(chosen, self._read(self._pictures_N3, chosen), strict=True)):
            image_BCHW[place] = torch.from_numpy(self._decoded(row, data)).permute(2, 0, 1)
        return image_BCHW

    def latents(self, rows: Tensor) -> Tensor:
        """Return latents (B, L, D) float32. Raises DataError where they cannot be read, or the shards were opened without them."""
        if not len(self._latents_N3):
            raise DataError("these shards were opened without latents: open them with latents=True")
        chosen = self._chosen(rows)
        read = self._read(self._latents_N3, chosen)
        if self._shape_LD is None:
            self._shape_LD = self._unpacked(0, self._read(self._latents_N3, [0])[0]).shape
        latents_BLD = np.empty((len(chosen), *self._shape_LD), np.float32)
        for place, (row, data) in enumerate(zip(chosen, read, strict=True)):
            w_LD = self._unpacked(row, data)
            if w_LD.shape != self._shape_LD:
                raise self._failed(row, f"its {LATENTS} has the shape {w_LD.shape}, expected {self._shape_LD} as in the first sample")
            latents_BLD[place] = w_LD
        return torch.from_numpy(latents_BLD)

    def _chosen(self, rows: Tensor) -> list[int]:
        chosen: list[int] = rows.tolist()
        wrong = next((row for row in chosen if not 0 <= row < len(self)), None)
        if wrong is not None:
            raise IndexError(f"row {wrong}: expected 0 to {len(self) - 1}")
        return chosen

    def _read(self, spans_N3: NDArray[np.int64], rows: Sequence[int]) -> list[bytes]:
        return self._files.read([Span(*spans_N3[row].tolist()) for row in rows])

    def _decoded(self, row: int, data: bytes) -> ImageHWC:
        try:
            return fit_square(decode_image(data, self._limits), self.size)
        except SampleFailure as failure:
            raise self._failed(row, failure.reason) from failure
        except Exception as error:  # whatever else a decoder chokes on
            raise self._failed(row, f"{type(error).__name__}: {error}") from error

    def _unpacked(self, row: int, data: bytes) -> NDArray[np.float32]:
        try:
            latent_shape(data, len(data))
            w_LD: NDArray[np.float32] = np.load(io.BytesIO(data), allow_pickle=False)
        except ValueError as error:
            raise self._failed(row, f"its {LATENTS} cannot be used: {error}") from error
        return w_LD

    def _failed(self, row: int, reason: str) -> DataError:
        shard = self._files.files[int(self._pictures_N3[row, 0])]
        return DataError(f"shard {shard.name}, sample {self.keys[row]!r}: {reason} ({shard.url}). {MEND}")


def _spans(found: Iterable[tuple[int, int, int]]) -> NDArray[np.int64]:
    return np.array(list(found), np.int64).reshape(-1, 3)


def _fingerprint(scans: Sequence[Scan]) -> str:
    digest = hashlib.sha256()
    for scan in scans:
        digest.update(json.dumps([scan.file.name, scan.file.size_bytes, len(scan.entries)]).encode())
        for entry in scan.entries:
            members = [(member.offset, member.size) for member in (entry.picture, entry.latents) if member is not None]
            digest.update(json.dumps([entry.key, entry.image_ext, members]).encode())
    return digest.hexdigest()


def _of_one_shape(scans: Sequence[Scan]) -> list[Scan]:
    """Leave out the samples whose latents are not of the most frequent shape: they belong to another pack."""
    shapes = Counter(entry.shape_LD for scan in scans for entry in scan.entries)
    if len(shapes) < 2:
        return list(scans)
    shape_LD = shapes.most_common(1)[0][0]

    def refused(file: ShardFile, entry: Entry) -> LeftOut:
        return file.name, entry.key, f"its {LATENTS} has the shape {entry.shape_LD}, most samples have {shape_LD}; {MAKE_LATENTS}"

    return [
        Scan(
            file=scan.file,
            entries=tuple(entry for entry in scan.entries if entry.shape_LD == shape_LD),
            left_out=scan.left_out + tuple(refused(scan.file, entry) for entry in scan.entries if entry.shape_LD != shape_LD),
        )
        for scan in scans
    ]


def _nothing_left(urls: str, scans: Sequence[Scan], *, latents: bool) -> DataError:
    left_out = [item for scan in scans for item in scan.left_out]
    first = "; ".join(f"{shard}/{key}: {reason}" if key else reason for shard, key, reason in left_out[:3])
    asked = "pictures with latents" if latents else "pictures"
    return DataError(f"--data {urls}: expected {asked} to train on, found none in {len(scans)} shards, {len(left_out)} left out: {first}")
