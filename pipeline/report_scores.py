"""The scores that the report shows: how each is called and printed, and what is gathered of it over a whole run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BINS = 400
CRITERION, INVERSION_CRITERION = "clip_directional", "psnr"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Describe one score column: how people call it, where its histogram starts and ends, and how to print it."""

    column: str
    label: str
    low: float
    high: float
    digits: int = 2
    unit: str = ""
    better: str = "higher"
    meaning: str


SCORES = (
    Score(column="clip_directional", label="Directional CLIP", low=-1, high=1, meaning="cosine of image change and text change"),
    Score(column="clip_score", label="CLIP score", low=-100, high=100, digits=1, meaning="100 x cosine of edit and target text"),
    Score(column="identity", label="Identity", low=-1, high=1, meaning="cosine of identity embeddings, input and edit"),
    Score(column="lpips", label="LPIPS", low=0, high=4, digits=3, better="lower", meaning="perceptual distance, input to edit"),
    Score(column="ssim", label="SSIM", low=-1, high=1, meaning="structural similarity, input and edit"),
    Score(column="psnr", label="PSNR", low=0, high=100, digits=1, unit="dB", meaning="peak signal-to-noise ratio, input to edit"),
    Score(column="lpips_inversion", label="LPIPS, inversion", low=0, high=4, digits=3, better="lower", meaning="inversion to edit"),
    Score(column="psnr_inversion", label="PSNR, inversion", low=0, high=100, digits=1, unit="dB", meaning="inversion to edit"),
)


@dataclass(kw_only=True)
class Distribution:
    """Keep count, mean, deviation and a fine histogram of one score."""

    score: Score
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Add values; those that are missing are left out, those outside the range count in the outermost bin."""
        values = values[np.isfinite(values)]
        self.count += values.size
        self.total += float(values.sum())
        self.squares += float((values**2).sum())
        inside = values.clip(self.score.low, self.score.high)
        self.bins += np.histogram(inside, bins=BINS, range=(self.score.low, self.score.high))[0]

    def merge(self, other: Distribution) -> None:
        """Add the values of another distribution of the same score."""
        self.count, self.total, self.squares = self.count + other.count, self.total + other.total, self.squares + other.squares
        self.bins += other.bins

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def deviation(self) -> float:
        if self.count < 2:
            return 0.0
        return math.sqrt(max(0.0, (self.squares - self.total**2 / self.count) / (self.count - 1)))


@dataclass(kw_only=True)
class Share:
    """Count how many of those that could be judged hold."""

    hold: int = 0
    judged: int = 0

    def add(self, values: Sequence[bool | None]) -> None:
        self.judged += sum(value is not None for value in values)
        self.hold += sum(value is True for value in values)

    def merge(self, other: Share) -> None:
        """Add what another share counted."""
        self.hold, self.judged = self.hold + other.hold, self.judged + other.judged

    @property
    def percent(self) -> float | None:
        return 100 * self.hold / self.judged if self.judged else None
