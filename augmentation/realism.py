"""How far a picture is from what the generator makes by itself: the Mahalanobis distance of its features to those of random pictures.

Distances are in units of the 99 % quantile of further random pictures that the mean and the covariance did not see, so 1 is "as far as
one in a hundred of the generator's own". The covariance is shrunk (Ledoit and Wolf 2004). Shape legend: N pictures, E features.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from augmentation.drawn import draw
from augmentation.wish import name_of
from pipeline.methods import Methods

PER_FEATURE = 8
"""Pictures per feature that mean and covariance come from."""
FURTHER = 512
QUANTILE = 0.99
SEED = 20_000
CHUNK = 32
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Realism:
    """The statistics of a generator's features: mean (E,), a matrix (E, E) that makes them white, and the unit of distance."""

    mean_E: FloatArray
    whitening_EE: FloatArray
    unit: float
    networks: str
    """What they were measured with."""

    def distances(self, features_NE: Tensor) -> list[float]:
        """Return the distance of each picture, 0 at the mean."""
        centred = features_NE.detach().double().cpu().numpy() - self.mean_E
        return [float(length) / self.unit for length in np.linalg.norm(centred @ self.whitening_EE, axis=1)]

    def to_npz(self) -> bytes:
        """Return the file that holds it."""
        buffer = io.BytesIO()
        np.savez(buffer, mean=self.mean_E, whitening=self.whitening_EE, unit=np.float64(self.unit), networks=np.array(self.networks))
        return buffer.getvalue()

    @classmethod
    def from_npz(cls, data: bytes) -> Realism:
        """Read what `to_npz` returned."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return cls(mean_E=found["mean"], whitening_EE=found["whitening"], unit=float(found["unit"]), networks=str(found["networks"]))


def distances_of(realism: Realism | None, features_NE: Tensor | None, *, count: int) -> list[float] | list[None]:
    """Return the distance of each of `count` pictures; None where there are no statistics or no features."""
    return [None] * count if realism is None or features_NE is None else realism.distances(features_NE)


def statistics(features_NE: FloatArray, further_NE: FloatArray, *, networks: str) -> Realism:
    """Return the statistics of some features, the unit from others."""
    from sklearn.covariance import LedoitWolf  # a second to import, and only this needs it

    fitted = LedoitWolf().fit(features_NE)
    values, vectors = np.linalg.eigh(fitted.covariance_)
    whitening = vectors / np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))
    lengths = np.linalg.norm((further_NE - fitted.location_) @ whitening, axis=1)
    return Realism(mean_E=fitted.location_, whitening_EE=whitening, unit=float(np.quantile(lengths, QUANTILE)), networks=networks)


@torch.no_grad()
def of_generator(methods: Methods) -> Realism:
    """Draw random pictures of a generator, without truncation, and return the statistics of their features."""
    size = _features(methods, [SEED]).shape[1]
    seeds = list(range(SEED, SEED + PER_FEATURE * size + FURTHER))
    features = np.concatenate([_features(methods, seeds[i : i + CHUNK]) for i in range(0, len(seeds), CHUNK)])
    networks = name_of(methods.pack.sha256, methods.running.precision)
    return statistics(features[: PER_FEATURE * size], features[PER_FEATURE * size :], networks=networks)


def _features(methods: Methods, seeds: Sequence[int]) -> FloatArray:
    image_BCHW = draw(methods.pack.generator(), seeds, truncation=1.0, device=methods.device)
    embedding_BE = methods.scorer.embed(image_BCHW.clamp(-1, 1))
    assert embedding_BE is not None, "the plan has checked that the pack has features"
    found: FloatArray = embedding_BE.double().cpu().numpy()
    return found
