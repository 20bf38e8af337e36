"""Bootstrap intervals of a difference of means: of two samples, or of one sample measured twice.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentile interval). Differs: where a measure says yes or no,
each sample first gets one more yes and one more no (Agresti and Caffo 2000; Agresti and Min 2005 for pairs), since resampling a sample in
which everything succeeded would find no spread at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
TAIL = 10
"""Resamples beyond each end of an interval, so that the end is not that of a single one."""
FEW_VALUES = 16
"""Up to so many different values the counts of each are drawn, which is quick, and not the single values."""
FEWEST, MOST, MOST_OF_MANY = 10_000, 500_000, 20_000
"""Resamples: at least; at most; at most of a measure with more values, beyond which an end is moved on as a normal one would be."""
AT_ONCE = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The ends of an interval."""

    low: float
    high: float


def unpaired(a_N: Values, b_M: Values, *, tail: float, seed: int = 0) -> Interval:
    """Return the interval of mean(a) - mean(b); a share `tail` of the resamples lies beyond each end."""
    rng, times = np.random.default_rng(seed), _times(tail, a_N, b_M)
    extra = [0.0, 1.0] if _is_yes_or_no(a_N) and _is_yes_or_no(b_M) else []
    means = [_resampled_means(np.append(values, extra), times, rng) for values in (a_N, b_M)]
    return _ends(means[0] - means[1], tail)


def paired(a_N: Values, b_N: Values, *, tail: float, seed: int = 0) -> Interval:
    """Return the interval of mean(a - b), where both were measured on the same portraits in the same order."""
    rng = np.random.default_rng(seed)
    extra = [-1.0, 1.0] if _is_yes_or_no(a_N) and _is_yes_or_no(b_N) else []
    differences_N = np.append(a_N - b_N, extra)
    return _ends(_resampled_means(differences_N, _times(tail, differences_N), rng), tail)


def _times(tail: float, *samples: Values) -> int:
    most = MOST if all(len(np.unique(values)) <= FEW_VALUES for values in samples) else MOST_OF_MANY
    return int(np.clip(TAIL / tail, FEWEST, most))


def _is_yes_or_no(values_N: Values) -> bool:
    return bool(np.isin(values_N, (0.0, 1.0)).all())


def _resampled_means(values_N: Values, times: int, rng: np.random.Generator) -> Values:
    """Return the means of `times` samples drawn with replacement, (times,)."""
    different, counts = np.unique(values_N, return_counts=True)
    n = len(values_N)
    if len(different) <= FEW_VALUES:
        return np.asarray(rng.multinomial(n, counts / n, size=times) @ different / n, dtype=np.float64)
    each = max(1, AT_ONCE // n)
    parts = [values_N[rng.integers(0, n, (min(each, times - first), n))].mean(1) for first in range(0, times, each)]
    return np.concatenate(parts)


def _ends(differences: Values, tail: float) -> Interval:
    """Return the quantiles at both tails: the last ones that enough resamples lie beyond, moved outwards by what is missing to the tail."""
    shown = max(tail, TAIL / len(differences))
    low, high = np.quantile(differences, (shown, 1 - shown))
    more = (NormalDist().inv_cdf(shown) - NormalDist().inv_cdf(tail)) * float(differences.std())
    return Interval(low=float(low) - more, high=float(high) + more)
