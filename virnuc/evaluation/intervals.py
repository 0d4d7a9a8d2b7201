"""Intervals that know that frames of one genome resemble each other.

The uncertainty of a metric comes from a bootstrap that draws whole genomes with replacement, within each class, because
the split fixes how many genomes of each class are tested. A bootstrap of rows would treat a genome's hundred frames
as a hundred independent observations and give intervals that are far too narrow; `benchmarks/intervals.py` measures how
narrow.

A draw is a row of integer weights, one a genome.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from virnuc.evaluation.metrics import METRICS
from virnuc.evaluation.weighted import Floats, Labels, Weighted, Weights

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and the two ends of its confidence interval; NaN ends where too few genomes allow none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Draws(Weights):
    """Resampled genomes: how often each genome was drawn, whole numbers, and which genome each row belongs to."""

    effective: float  # genomes of the class with fewest; see `kish`

    def of(self, labels: Labels, scores: Floats) -> dict[str, Floats]:
        """Return the metrics that can be resampled in each draw, float64 [draws]; one label and score a row."""
        rows = Weighted(self, labels, scores)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {metric.key: metric.of(rows) for metric in METRICS if metric.resampled}

    def means(self, values: Floats) -> Floats:
        """Return the mean over rows of `values` [rows] in each draw, float64 [draws]."""
        return self.totals(values[:, None])[:, 0] / self.totals(np.ones((len(values), 1)))[:, 0]

    def interval(self, value: float, drawn: Floats) -> Interval:
        """Return the interval of a metric from its `value` on the rows as they are and from its draws.

        Percentiles of a bootstrap of few genomes are too narrow. They are taken further out, as far as Student's t
        lies outside the normal distribution ("expanded percentiles": T. Hesterberg, What teachers should know about
        the bootstrap, 2015, section 5.3). A class with fewer than two effective genomes allows no interval: its
        ends are NaN.
        """
        drawn = drawn[np.isfinite(drawn)]
        if self.effective < 2 or not len(drawn) or not np.isfinite(value):
            return Interval(float(value), np.nan, np.nan)
        freedom = self.effective - 1
        reach = np.sqrt(self.effective / freedom) * stats.t.isf((1 - CONFIDENCE) / 2, freedom)
        return Interval(float(value), *quantiles(drawn, reach))


def quantiles(drawn: Floats, reach: float) -> tuple[float, float]:
    """Return the quantiles that would lie `reach` standard deviations from the mean in a normal distribution."""
    tail = stats.norm.sf(reach)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def draw_genomes(genomes: pd.Series | np.ndarray, labels: Labels, seed: int, resamples: int = RESAMPLES) -> Draws:
    """Draw genomes with replacement, within each class, `resamples` times.

    The draws depend on the genomes' names, sizes and classes and on the seed, not on the order of the rows, so that
    two models tested on the same genomes are resampled alike.
    """
    codes, names = pd.factorize(genomes, sort=True)
    count = len(names)
    classes = np.zeros(count, dtype=np.int8)
    classes[codes] = labels
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, count))
    sizes = np.bincount(codes)
    effective = []
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        effective.append(kish(sizes[members]))
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return Draws(weights, codes.astype(np.int64), min(effective))


def kish(sizes: NDArray[np.int64]) -> float:
    """Return how many genomes of one size would carry the weight of these: a large one among small ones decides alone.

    Kish's effective size, (sum n)^2 / (sum n^2).
    """
    return float(sizes.sum() ** 2 / (sizes.astype(float) ** 2).sum())


def effective_genomes(genomes: pd.Series) -> float:
    """Return how many genomes of one size would carry the weight of those of these rows."""
    return kish(genomes.value_counts().to_numpy())
