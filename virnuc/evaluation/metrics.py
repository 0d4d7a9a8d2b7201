"""Metrics of a two-class classifier: one record each, from which logging, intervals and the report follow.

Metrics are computed on pooled rows. A record has two functions: one of rows, and one of resampled rows (`Resampled`),
which gives the metric in every draw of the bootstrap at once. To add a metric, add its record to `METRICS` and its
case to the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as skm

if TYPE_CHECKING:
    from virnuc.evaluation.intervals import Resampled

THRESHOLD = 0.5  # a viral probability of at least this is a viral call
ECE_BINS = 15  # equal width in the viral probability

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]  # 1 viral, 0 non-viral


@dataclass(frozen=True)
class Metric:
    """A metric of viral probabilities."""

    key: str  # in MLflow, below `test/`
    label: str  # in the report
    of: Callable[[Labels, Floats, Floats | None], float]  # labels, viral probabilities, weights of rows or None
    drawn: Callable[[Resampled], Floats] | None  # in each draw; None where resampling cannot give an interval
    higher_is_better: bool = True
    shifting: bool = False  # changes with the share of viral frames, so it is also logged at other prevalences
    calibrated: bool = False  # is also logged after calibration

    @property
    def title(self) -> str:
        """The label, with an arrow where a lower value is better."""
        return self.label if self.higher_is_better else f"{self.label} ↓"


def _of_calls(metric: Callable[..., float], **options: object) -> Callable[[Labels, Floats, Floats | None], float]:
    """Return a metric of calls as one of probabilities."""

    def of(labels: Labels, scores: Floats, weights: Floats | None) -> float:
        return float(metric(labels, scores >= THRESHOLD, sample_weight=weights, **options))

    return of


def _of_scores(metric: Callable[..., float]) -> Callable[[Labels, Floats, Floats | None], float]:
    """Return an area under a curve, which one class alone does not define."""

    def of(labels: Labels, scores: Floats, weights: Floats | None) -> float:
        both = len(np.unique(labels)) == 2
        return float(metric(labels, scores, sample_weight=weights)) if both else np.nan

    return of


def _brier(labels: Labels, scores: Floats, weights: Floats | None) -> float:
    return float(skm.brier_score_loss(labels, scores, pos_label=1, sample_weight=weights))


def _log_loss(labels: Labels, scores: Floats, weights: Floats | None) -> float:
    return float(skm.log_loss(labels, scores, labels=[0, 1], sample_weight=weights))


def expected_calibration_error(labels: Labels, scores: Floats, weights: Floats | None = None) -> float:
    """Return the mean distance between predicted and observed share of viral rows over `ECE_BINS` equal bins."""
    weights = np.ones(len(scores)) if weights is None else weights
    bins = np.minimum((scores * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=(scores - labels) * weights, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def _drawn_mcc(drawn: Resampled) -> Floats:
    tp, fn, fp, tn = drawn.tp, drawn.fn, drawn.fp, drawn.tn
    margin = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.where(margin > 0, (tp * tn - fp * fn) / np.sqrt(margin), 0.0)


_UNDEFINED = {"zero_division": np.nan}  # a ratio without a denominator
METRICS = (
    Metric("accuracy", "Accuracy", _of_calls(skm.accuracy_score), lambda d: (d.tp + d.tn) / d.rows, shifting=True),
    Metric(
        "precision",
        "Precision",
        _of_calls(skm.precision_score, **_UNDEFINED),
        lambda d: d.tp / (d.tp + d.fp),
        shifting=True,
    ),
    Metric("recall", "Recall", _of_calls(skm.recall_score, **_UNDEFINED), lambda d: d.tp / (d.tp + d.fn)),
    Metric(
        "specificity",
        "Specificity",
        _of_calls(skm.recall_score, pos_label=0, **_UNDEFINED),
        lambda d: d.tn / (d.tn + d.fp),
    ),
    Metric(
        "f1",
        "F1",
        _of_calls(skm.f1_score, **_UNDEFINED),
        lambda d: 2 * d.tp / (2 * d.tp + d.fp + d.fn),
        shifting=True,
    ),
    Metric("mcc", "MCC", _of_calls(skm.matthews_corrcoef), _drawn_mcc, shifting=True),
    Metric("roc_auc", "ROC-AUC", _of_scores(skm.roc_auc_score), lambda d: d.areas[0]),
    Metric("pr_auc", "PR-AUC", _of_scores(skm.average_precision_score), lambda d: d.areas[1], shifting=True),
    Metric("brier", "Brier score", _brier, lambda d: d.squares / d.rows, higher_is_better=False, calibrated=True),
    Metric(
        "ece",
        "Calibration error",
        expected_calibration_error,
        None,  # it only grows by resampling; `calibration.calibration_error` gives its interval
        higher_is_better=False,
        calibrated=True,
    ),
    Metric("log_loss", "Log loss", _log_loss, lambda d: d.losses / d.rows, higher_is_better=False, calibrated=True),
)
KEYS = tuple(metric.key for metric in METRICS)


def binary_metrics(labels: Labels, scores: Floats, weights: Floats | None = None) -> dict[str, float]:
    """Return each of `METRICS` by its key, for viral probabilities `scores`.

    A metric that its data do not define (precision without a viral call, an area with one class) is NaN.
    """
    return {metric.key: metric.of(labels, scores, weights) for metric in METRICS}


def at_prevalence(labels: Labels, scores: Floats, prevalence: float) -> dict[str, float]:
    """Return the metrics as they would be if a share `prevalence` of the rows were viral."""
    return binary_metrics(labels, scores, prevalence_weights(labels, prevalence))


def prevalence_weights(labels: Labels, prevalence: float) -> Floats:
    """Return weights of rows, float64 [n], under which a share `prevalence` of them is viral."""
    share = labels.mean()
    return np.where(labels == 1, prevalence / share, (1 - prevalence) / (1 - share))


def mcnemar(baseline_right: NDArray[np.bool_], candidate_right: NDArray[np.bool_]) -> dict[str, float]:
    """Return McNemar's exact test of two paired classifiers: rows that only one gets right, and the p-value.

    It takes rows for independent, which frames of one genome are not; its p-value is too small and no rule uses it.
    """
    only_baseline = int((baseline_right & ~candidate_right).sum())
    only_candidate = int((~baseline_right & candidate_right).sum())
    total = only_baseline + only_candidate
    p_value = float(stats.binomtest(only_candidate, total, 0.5).pvalue) if total else 1.0
    return {"only_baseline": only_baseline, "only_candidate": only_candidate, "p_value": p_value}
