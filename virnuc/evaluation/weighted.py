"""The sums that metrics are computed from, over weighted rows, and the areas under two curves.

A row has the weight of its unit: its genome in a bootstrap, its class when the share of viral rows is changed. Several
weightings, called draws, are computed at once, as one matrix product from the sums of each unit; only the two areas
under curves go through the sorted rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5  # a viral probability of at least this is a viral call
ECE_BINS = 15  # equal width in the viral probability

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]  # 1 viral, 0 non-viral
_BLOCK = 200_000  # rows x draws at once while the areas under curves are computed: what a cache holds


@dataclass(frozen=True)
class Weights:
    """How much each row counts in each draw."""

    weights: Floats  # [draws, units]
    codes: NDArray[np.int64]  # [rows], index of each row's unit

    def totals(self, rows: Floats) -> Floats:
        """Return the weighted sums of `rows` [rows, k], float64 [draws, k]."""
        sums = np.stack(
            [np.bincount(self.codes, weights=column, minlength=self.weights.shape[1]) for column in rows.T], axis=1
        )
        return self.weights @ sums


class Weighted:
    """Sums over weighted rows with their labels and viral probabilities, each float64 [draws]."""

    def __init__(self, weights: Weights, labels: Labels, scores: Floats) -> None:
        """Add up what does not depend on the order of the `scores`; one label and score a row."""
        self.weights, self.labels, self.scores = weights, labels, scores
        viral, called = labels == 1, scores >= THRESHOLD
        chosen = np.clip(np.where(viral, scores, 1 - scores), np.finfo(float).eps, 1)  # probability of the true label
        columns = [viral & called, viral & ~called, ~viral & called, ~viral & ~called]
        columns += [(scores - labels) ** 2, -np.log(chosen)]
        sums = weights.totals(np.stack(columns, axis=1).astype(float)).T
        self.tp, self.fn, self.fp, self.tn = sums[:4]  # rows by call and label; viral is positive
        self.rows = sums[:4].sum(axis=0)
        self.squares, self.losses = sums[4:]

    @property
    def gaps(self) -> Floats:
        """Distances between predicted and observed numbers of viral rows, over `ECE_BINS` equal bins."""
        units = self.weights.weights.shape[1]
        places = self.weights.codes * ECE_BINS + calibration_bins(self.scores)
        sums = np.bincount(places, weights=self.scores - self.labels, minlength=units * ECE_BINS)
        return np.abs(self.weights.weights @ sums.reshape(units, ECE_BINS)).sum(axis=1)

    @cached_property
    def areas(self) -> Floats:
        """Areas under the ROC and precision-recall curves, [2, draws], in blocks of draws that a cache holds.

        Both are sums over the thresholds at which viral rows are found, of the share of viral rows found there.
        """
        scores, codes, every = self.scores, self.weights.codes, self.weights.weights
        viral, other = (np.flatnonzero(self.labels == label) for label in (1, 0))
        viral, other = viral[np.argsort(-scores[viral])], other[np.argsort(-scores[other])]
        last = np.flatnonzero(np.diff(scores[viral], append=np.nan) != 0)  # of each run of equal scores
        thresholds = -scores[viral][last]
        above = np.searchsorted(-scores[other], thresholds, side="left")  # non-viral rows with a higher score
        upto = np.searchsorted(-scores[other], thresholds, side="right")  # and those with the same
        areas = np.full((2, len(every)), np.nan)
        if not (len(viral) and len(other)):
            return areas
        block = max(1, _BLOCK // len(scores))
        for start in range(0, len(every), block):
            weights = every[start : start + block]
            true = np.cumsum(weights[:, codes[viral]], axis=1)[:, last]
            false = np.cumsum(weights[:, codes[other]], axis=1)
            false = np.concatenate([np.zeros((len(weights), 1)), false], axis=1)
            areas[:, start : start + block] = _areas(true, false[:, above], false[:, upto], false[:, -1])
        return areas


def calibration_bins(scores: Floats) -> NDArray[np.int64]:
    """Return the bin of each viral probability, from 0."""
    return np.minimum((scores * ECE_BINS).astype(np.int64), ECE_BINS - 1)


def _areas(true: Floats, above: Floats, upto: Floats, negatives: Floats) -> Floats:
    """Return both areas, float64 [2, draws].

    Args:
        true: viral rows found at or above each threshold, [draws, thresholds].
        above: non-viral rows above it, of the same shape.
        upto: non-viral rows at or above it.
        negatives: all non-viral rows, [draws].
    """
    positives = true[:, -1]
    steps = np.diff(true, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        misplaced = np.einsum("ij,ij->i", steps, above + upto) / 2
        precision = np.nan_to_num(true / (true + upto))
        roc = 1 - misplaced / (positives * negatives)
        return np.stack([roc, np.einsum("ij,ij->i", steps, precision) / positives])
