"""Metrics of a two-class classifier, and intervals that know that frames of one genome resemble each other.

Metrics are computed on pooled rows. Their uncertainty comes from a bootstrap that draws whole genomes with
replacement, within each class, because the split fixes how many genomes of each class are tested. A bootstrap of
rows would take a genome's hundred frames for a hundred independent witnesses and give intervals that are far too
narrow; `benchmarks/intervals.py` measures by how much.

A draw is a row of integer weights, one a genome. Every metric of a draw follows from the weighted sums of a few
numbers a genome, so 2,000 draws are one matrix product; only the two areas under curves walk over the sorted rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as skm

METRICS = (
    "accuracy",
    "precision",
    "recall",
    "specificity",
    "f1",
    "mcc",
    "roc_auc",
    "pr_auc",
    "brier",
    "ece",
    "log_loss",
)
RESAMPLES = 2000
CONFIDENCE = 0.95
ECE_BINS = 15  # equal width in the viral probability
_BLOCK = 200_000  # rows x draws at once while the areas under curves are computed: what a cache holds

Floats = NDArray[np.float64]


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
    effective: float  # genomes of the class with fewest; see `_effective`

    def of(self, labels: NDArray[np.int8], scores: Floats) -> dict[str, Floats]:
        """Return the metrics in each draw, float64 [draws]; `labels` and `scores` have one entry a row.

        The calibration error is not among them: it only grows by resampling, so its draws miss their own value.
        """
        return _count_metrics(self, labels, scores) | _curve_metrics(self, labels, scores)

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
    genomes: pd.Series, labels: NDArray[np.int8], seed: int, resamples: int = RESAMPLES, *, per_row: bool = False
) -> Draws:
    """Draw genomes with replacement, within each class, `resamples` times.

    The draws depend on the genomes' names, sizes and classes and on the seed, not on the order of the rows, so that
    two models tested on the same genomes are resampled alike. `per_row` draws rows instead: the wrong way, kept so
    that it can be shown to fail.
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
        effective.append(_effective(sizes[members]))
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return Draws(weights, codes.astype(np.int64), min(effective))


def binary_metrics(labels: NDArray[np.int8], scores: Floats, weights: Floats | None = None) -> dict[str, float]:
    """Return the metrics of `METRICS` for viral probabilities `scores`; a score of at least 0.5 is a viral call.

    A metric that its data do not define (precision without a viral call, an area with one class) is NaN.
    """
    calls = scores >= 0.5
    both = len(np.unique(labels)) == 2
    given = {"sample_weight": weights}
    return {
        "accuracy": float(skm.accuracy_score(labels, calls, **given)),
        "precision": float(skm.precision_score(labels, calls, zero_division=np.nan, **given)),
        "recall": float(skm.recall_score(labels, calls, zero_division=np.nan, **given)),
        "specificity": float(skm.recall_score(labels, calls, pos_label=0, zero_division=np.nan, **given)),
        "f1": float(skm.f1_score(labels, calls, zero_division=np.nan, **given)),
        "mcc": float(skm.matthews_corrcoef(labels, calls, **given)),
        "roc_auc": float(skm.roc_auc_score(labels, scores, **given)) if both else np.nan,
        "pr_auc": float(skm.average_precision_score(labels, scores, **given)) if both else np.nan,
        "brier": float(skm.brier_score_loss(labels, scores, pos_label=1, **given)),
        "ece": expected_calibration_error(labels, scores, weights),
        "log_loss": float(skm.log_loss(labels, scores, labels=[0, 1], **given)),
    }


def at_prevalence(labels: NDArray[np.int8], scores: Floats, prevalence: float) -> dict[str, float]:
    """Return the metrics as they would be if a share `prevalence` of the rows were viral."""
    share = labels.mean()
    weights = np.where(labels == 1, prevalence / share, (1 - prevalence) / (1 - share))
    return binary_metrics(labels, scores, weights)


def expected_calibration_error(labels: NDArray[np.int8], scores: Floats, weights: Floats | None = None) -> float:
    """Return the mean distance between predicted and observed share of viral rows over `ECE_BINS` equal bins."""
    weights = np.ones(len(scores)) if weights is None else weights
    bins = np.minimum((scores * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=(scores - labels) * weights, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def mcnemar(baseline_right: NDArray[np.bool_], candidate_right: NDArray[np.bool_]) -> dict[str, float]:
    """Return McNemar's exact test of two paired classifiers: rows that only one gets right, and the p-value.

    It takes rows for independent, which frames of one genome are not; its p-value is too small and no rule uses it.
    """
    only_baseline = int((baseline_right & ~candidate_right).sum())
    only_candidate = int((~baseline_right & candidate_right).sum())
    total = only_baseline + only_candidate
    p_value = float(stats.binomtest(only_candidate, total, 0.5).pvalue) if total else 1.0
    return {"only_baseline": only_baseline, "only_candidate": only_candidate, "p_value": p_value}


def _effective(sizes: NDArray[np.int64]) -> float:
    """Return how many genomes of one size would carry the weight of these: a large one among small ones decides alone.

    Kish's effective size, (sum n)^2 / (sum n^2).
    """
    return float(sizes.sum() ** 2 / (sizes.astype(float) ** 2).sum())


def _count_metrics(draws: Draws, labels: NDArray[np.int8], scores: Floats) -> dict[str, Floats]:
    """Return the metrics that follow from sums over rows: all but the areas under curves."""
    viral, called = labels == 1, scores >= 0.5
    chosen = np.clip(np.where(viral, scores, 1 - scores), np.finfo(float).eps, 1)
    columns = [viral & called, viral & ~called, ~viral & called, ~viral & ~called, (scores - labels) ** 2]
    totals = draws.totals(np.stack([*columns, -np.log(chosen)], axis=1).astype(float))
    tp, fn, fp, tn, squares, losses = totals.T
    rows = tp + fn + fp + tn
    with np.errstate(invalid="ignore", divide="ignore"):
        margin = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return {
            "accuracy": (tp + tn) / rows,
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "mcc": np.where(margin > 0, (tp * tn - fp * fn) / np.sqrt(margin), 0.0),
            "brier": squares / rows,
            "log_loss": losses / rows,
        }


def _curve_metrics(draws: Draws, labels: NDArray[np.int8], scores: Floats) -> dict[str, Floats]:
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
    return {"roc_auc": areas[0], "pr_auc": areas[1]}


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
