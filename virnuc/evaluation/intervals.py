"""Intervals that know that frames of one genome resemble each other.

The uncertainty of a metric comes from a bootstrap that draws whole genomes with replacement, within each class, because
the split fixes how many genomes of each class are tested. A bootstrap of rows would treat a genome's hundred frames
as a hundred independent observations and give intervals that are far too narrow; `benchmarks/intervals.py` measures how
narrow.

A draw is a row of integer weights, one a genome. Every metric of a draw follows from the weighted sums of a few
numbers a genome, so 2,000 draws are one matrix product; only the two areas under curves walk over the sorted rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from virnuc.evaluation.metrics import METRICS, THRESHOLD, Floats, Labels

RESAMPLES = 2000
CONFIDENCE = 0.95
_BLOCK = 200_000  # rows x draws at once while the areas under curves are computed: what a cache holds


@dataclass(frozen=True)
class Interval:
    """A value and the two ends of its confidence interval; NaN ends where too few genomes allow none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Draws:
    """Resampled genomes: how often each genome was drawn, and which genome each row belongs to."""

    weights: Floats  # [draws, genomes], whole numbers
    codes: NDArray[np.int64]  # [rows], index of each row's genome
    effective: float  # genomes of the class with fewest; see `kish`

    def of(self, labels: Labels, scores: Floats) -> dict[str, Floats]:
        """Return the metrics that can be resampled in each draw, float64 [draws]; one label and score a row."""
        drawn = _resample(self, labels, scores)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {metric.key: metric.drawn(drawn) for metric in METRICS if metric.drawn}

    def means(self, values: Floats) -> Floats:
        """Return the mean over rows of `values` [rows] in each draw, float64 [draws]."""
        return self.totals(values[:, None])[:, 0] / self.totals(np.ones((len(values), 1)))[:, 0]

    def interval(self, value: float, drawn: Floats, confidence: float = CONFIDENCE) -> Interval:
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
        reach = np.sqrt(self.effective / freedom) * stats.t.isf((1 - confidence) / 2, freedom)
        tail = stats.norm.sf(reach)
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Interval(float(value), float(low), float(high))

    def totals(self, rows: Floats) -> Floats:
        """Return the sums of `rows` [rows, k] over the drawn genomes, float64 [draws, k]."""
        sums = np.stack(
            [np.bincount(self.codes, weights=column, minlength=self.weights.shape[1]) for column in rows.T], axis=1
        )
        return self.weights @ sums


def draw_genomes(
    genomes: pd.Series, labels: Labels, seed: int, resamples: int = RESAMPLES, *, per_row: bool = False
) -> Draws:
    """Draw genomes with replacement, within each class, `resamples` times.

    The draws depend on the genomes' names, sizes and classes and on the seed, not on the order of the rows, so that
    two models tested on the same genomes are resampled alike. `per_row` draws rows instead. That is
    wrong, and `benchmarks/intervals.py` shows by how much.
    """
    if per_row:
        codes, count = np.arange(len(genomes)), len(genomes)
    else:
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


@dataclass(frozen=True)
class Resampled:
    """What metrics follow from, in each draw: sums over rows, float64 [draws], and areas under curves."""

    tp: Floats  # viral rows that are called viral
    fn: Floats  # viral rows that are called non-viral
    fp: Floats  # non-viral rows that are called viral
    tn: Floats  # non-viral rows that are called non-viral
    squares: Floats  # squared distances between probability and label
    losses: Floats  # negative log probabilities of the true label
    areas: Floats  # under the ROC and the precision-recall curve, [2, draws]

    @property
    def rows(self) -> Floats:
        """All rows."""
        return self.tp + self.fn + self.fp + self.tn


def _resample(draws: Draws, labels: Labels, scores: Floats) -> Resampled:
    viral, called = labels == 1, scores >= THRESHOLD
    chosen = np.clip(np.where(viral, scores, 1 - scores), np.finfo(float).eps, 1)
    columns = [viral & called, viral & ~called, ~viral & called, ~viral & ~called]
    columns += [(scores - labels) ** 2, -np.log(chosen)]
    sums = draws.totals(np.stack(columns, axis=1).astype(float)).T
    tp, fn, fp, tn, squares, losses = sums
    return Resampled(tp, fn, fp, tn, squares, losses, _curve_areas(draws, labels, scores))


def _curve_areas(draws: Draws, labels: Labels, scores: Floats) -> Floats:
    """Return the areas under the ROC and precision-recall curves, in blocks of draws that a cache holds.

    Both are sums over the thresholds at which viral rows are found, of the share of viral rows found there.
    """
    viral, other = (np.flatnonzero(labels == label) for label in (1, 0))
    viral, other = viral[np.argsort(-scores[viral])], other[np.argsort(-scores[other])]
    last = np.flatnonzero(np.diff(scores[viral], append=np.nan) != 0)  # of each run of equal scores
    thresholds = -scores[viral][last]
    above = np.searchsorted(-scores[other], thresholds, side="left")  # non-viral rows with a higher score
    upto = np.searchsorted(-scores[other], thresholds, side="right")  # and those with the same
    areas = np.full((2, len(draws.weights)), np.nan)
    block = max(1, _BLOCK // max(1, len(scores)))
    for start in range(0, len(draws.weights), block):
        weights = draws.weights[start : start + block]
        true = np.cumsum(weights[:, draws.codes[viral]], axis=1)[:, last]
        false = np.cumsum(weights[:, draws.codes[other]], axis=1)
        false = np.concatenate([np.zeros((len(weights), 1)), false], axis=1)
        areas[:, start : start + block] = _areas(true, false[:, above], false[:, upto], false[:, -1])
    return areas


def _areas(true: Floats, above: Floats, upto: Floats, negatives: Floats) -> Floats:
    """Return both areas, float64 [2, draws].

    Args:
        true: viral rows found at or above each threshold, [draws, thresholds].
        above: non-viral rows above it, of the same shape.
        upto: non-viral rows at or above it.
        negatives: all non-viral rows, [draws].
    """
    if not true.shape[1]:
        return np.full((2, len(true)), np.nan)
    positives = true[:, -1]
    steps = np.diff(true, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        misplaced = np.einsum("ij,ij->i", steps, above + upto) / 2
        precision = np.nan_to_num(true / (true + upto))
        roc = 1 - misplaced / (positives * negatives)
        return np.stack([roc, np.einsum("ij,ij->i", steps, precision) / positives])
