"""How far a picture is from what the generator makes by itself: the Mahalanobis distance of its features to those of random pictures.

Distances are in units of the 99 % quantile of further random pictures that the mean and the covariance did not see, so 1 is "as far as
one in a hundred of the generator's own". The covariance is shrunk (Ledoit and Wolf 2004). Shape legend: N pictures, E features.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.stylegan2 import Generator

PER_FEATURE = 8
"""Pictures per feature that mean and covariance come from."""
FURTHER = 512
QUANTILE = 0.99
SEED = 20_000
CHUNK = 32
FloatArray = npt.NDArray[np.float64]
Embed = Callable[[Tensor], Tensor]
"""Takes pictures (N, 3, H, W), RGB in [-1, 1]; returns unit features (N, E)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Realism:
    """The statistics of a generator's features: mean (E,), a matrix (E, E) that makes them white, and the unit of distance."""

    mean_E: FloatArray
    whitening_EE: FloatArray
    unit: float
    pack: str
    """sha256 of the pack that they were measured with."""

    def distances(self, features_NE: Tensor) -> list[float]:
        """Return the distance of each picture, 0 at the mean."""
        centred = features_NE.detach().double().cpu().numpy() - self.mean_E
        return [float(length) / self.unit for length in np.linalg.norm(centred @ self.whitening_EE, axis=1)]

    def to_npz(self) -> bytes:
        """Return the file that holds it."""
        buffer = io.BytesIO()
        np.savez(buffer, mean=self.mean_E, whitening=self.whitening_EE, unit=np.float64(self.unit), pack=np.array(self.pack))
        return buffer.getvalue()

    @classmethod
    def from_npz(cls, data: bytes) -> Realism:
        """Read what `to_npz` returned."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return cls(mean_E=found["mean"], whitening_EE=found["whitening"], unit=float(found["unit"]), pack=str(found["pack"]))


def statistics(features_NE: FloatArray, further_NE: FloatArray, *, pack: str) -> Realism:
    """Return the statistics of some features, the unit from others."""
    from sklearn.covariance import LedoitWolf  # a second to import, and only this needs it

    fitted = LedoitWolf().fit(features_NE)
    values, vectors = np.linalg.eigh(fitted.covariance_)
    whitening = vectors / np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))
    lengths = np.linalg.norm((further_NE - fitted.location_) @ whitening, axis=1)
    return Realism(mean_E=fitted.location_, whitening_EE=whitening, unit=float(np.quantile(lengths, QUANTILE)), pack=pack)


@torch.no_grad()
def of_generator(generator: Generator, embed: Embed, *, device: str, pack: str) -> Realism:
    """Draw random pictures of a generator, without truncation, and return the statistics of their features."""
    size = embed(_drawn(generator, [SEED], truncation=1.0, device=device)).shape[1]
    seeds = list(range(SEED, SEED + PER_FEATURE * size + FURTHER))
    parts = [
        embed(_drawn(generator, seeds[i : i + CHUNK], truncation=1.0, device=device).clamp(-1, 1)).double().cpu().numpy()
        for i in range(0, len(seeds), CHUNK)
    ]
    features = np.concatenate(parts)
    return statistics(features[: PER_FEATURE * size], features[PER_FEATURE * size :], pack=pack)


def _drawn(generator: Generator, seeds: list[int], *, truncation: float, device: str) -> Tensor:
    from augmentation.drawn import draw

    return draw(generator, seeds, truncation=truncation, device=device)
