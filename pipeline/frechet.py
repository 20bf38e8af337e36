"""Frechet distance from moments that merge: every shard keeps its own, any union of shards gives the distance of their union.

Shape legend: B batch, E features.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 50
"""Below so many pictures the distance says more about their number than about them."""
FloatArray = npt.NDArray[np.float64]
_PARTS = ("n", "sum", "outer")


@dataclass(kw_only=True, eq=False)
class Moments:
    """Keep the count, the sum and the sum of outer products of feature vectors, in float64."""

    count: int
    total_E: FloatArray
    outer_EE: FloatArray

    @classmethod
    def empty(cls, features: int) -> Moments:
        """Return the moments of no sample."""
        return cls(count=0, total_E=np.zeros(features), outer_EE=np.zeros((features, features)))

    def update(self, features_BE: Tensor) -> None:
        """Add a batch of feature vectors."""
        batch = features_BE.detach().double().cpu().numpy()
        if batch.ndim != 2 or batch.shape[1] != self.total_E.shape[0]:
            raise ValueError(f"moments hold {self.total_E.shape[0]} features, found a batch of shape {batch.shape}; expected (B, features)")
        self.count += batch.shape[0]
        self.total_E += batch.sum(axis=0)
        self.outer_EE += batch.T @ batch

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together."""
        if self.total_E.shape != other.total_E.shape:
            raise ValueError(
                f"cannot merge moments of {self.total_E.shape[0]} and {other.total_E.shape[0]} features: "
                "they come from different networks; edit all shards with one pack"
            )
        return Moments(count=self.count + other.count, total_E=self.total_E + other.total_E, outer_EE=self.outer_EE + other.outer_EE)


@dataclass(kw_only=True, eq=False)
class ShardMoments:
    """Keep the moments of the source pictures and of the edits of each instruction, as one file per shard."""

    source: Moments
    edits: dict[str, Moments] = field(default_factory=dict)

    @classmethod
    def empty(cls, features: int, instructions: Iterable[str]) -> ShardMoments:
        """Return the moments of an empty shard."""
        return cls(source=Moments.empty(features), edits={name: Moments.empty(features) for name in instructions})

    def merge(self, other: ShardMoments) -> ShardMoments:
        """Return the moments of both shards together; an instruction that only one shard has is kept."""
        edits = dict(self.edits)
        for name, moments in other.edits.items():
            edits[name] = edits[name].merge(moments) if name in edits else moments
        return ShardMoments(source=self.source.merge(other.source), edits=edits)

    def to_npz(self) -> bytes:
        """Return the file: arrays `source.n`, `source.sum`, `source.outer` and `edit.NAME.n` ...; equal moments give equal bytes."""
        arrays = _arrays("source", self.source)
        for name in sorted(self.edits):
            arrays |= _arrays(f"edit.{name}", self.edits[name])
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_npz(cls, data: bytes, *, where: str) -> ShardMoments:
        """Read the file back; `where` names it in errors. Raises ValueError when it is not such a file."""
        try:
            if not zipfile.is_zipfile(io.BytesIO(data)):
                raise ValueError(f"{len(data)} bytes that are no npz archive")
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            names = sorted({name.removeprefix("edit.").rsplit(".", 1)[0] for name in arrays if name.startswith("edit.")})
            return cls(source=_moments("source", arrays), edits={name: _moments(f"edit.{name}", arrays) for name in names})
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{where}: not a file of Frechet moments ({error}); run the shard again") from error


def distance(a: Moments, b: Moments) -> float | None:
    """Return the Frechet distance between two sets (torchmetrics' formula, float64), or None when a set has fewer than two samples.

    It depends on the number of samples: with few of them it is biased upwards, so compare sets of equal size.
    """
    if min(a.count, b.count) < 2:
        return None
    import torch  # with the next line this takes seconds
    from torchmetrics.image.fid import FrechetInceptionDistance

    features = torch.nn.Identity()  # where torchmetrics expects a network: the features are in the moments already
    features.num_features = a.total_E.shape[0]
    metric = FrechetInceptionDistance(feature=features)
    metric.real_features_sum, metric.fake_features_sum = torch.from_numpy(a.total_E), torch.from_numpy(b.total_E)
    metric.real_features_cov_sum, metric.fake_features_cov_sum = torch.from_numpy(a.outer_EE), torch.from_numpy(b.outer_EE)
    metric.real_features_num_samples, metric.fake_features_num_samples = torch.tensor(a.count), torch.tensor(b.count)
    metric.orig_dtype = torch.float64
    metric._update_count = 1  # the states above came from update() calls of other processes
    return max(0.0, float(metric.compute()))


def _arrays(prefix: str, moments: Moments) -> dict[str, npt.NDArray[np.generic]]:
    values = (np.array(moments.count, dtype=np.int64), moments.total_E, moments.outer_EE)
    return {f"{prefix}.{part}": value for part, value in zip(_PARTS, values, strict=True)}


def _moments(prefix: str, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Moments:
    count, total, outer = (arrays[f"{prefix}.{part}"] for part in _PARTS)
    if total.dtype != np.float64 or outer.dtype != np.float64 or outer.shape != (total.size, total.size):
        raise ValueError(f"{prefix} has arrays of {total.dtype} {total.shape} and {outer.dtype} {outer.shape}")
    return Moments(count=int(count), total_E=total.astype(np.float64), outer_EE=outer.astype(np.float64))
