"""Metrics of a two-class classifier: one record each, from which logging, intervals and the report follow.

Metrics are computed on pooled rows. Each record has one function of weighted rows (`Weighted`), which gives the metric
of the rows themselves, at another share of viral rows, and in all draws of the bootstrap at once. To add a metric, add
its record to `METRICS` and its case to the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnuc.evaluation.weighted import Floats, Labels, Weighted, Weights


@dataclass(frozen=True)
class Metric:
    """A metric of viral probabilities."""

    key: str  # in MLflow, below `test/`
    label: str  # in the report
    of: Callable[[Weighted], Floats]  # in each draw; NaN where its data do not define it
    resampled: bool = True  # its draws give an interval
    higher_is_better: bool = True
    shifting: bool = False  # changes with the share of viral frames, so it is also logged at other prevalences
    calibrated: bool = False  # is also logged after calibration

    @property
    def title(self) -> str:
        """The label, with an arrow where a lower value is better."""
        return self.label if self.higher_is_better else f"{self.label} ↓"


def _mcc(rows: Weighted) -> Floats:
    tp, fn, fp, tn = rows.tp, rows.fn, rows.fp, rows.tn
    margin = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.where(margin > 0, (tp * tn - fp * fn) / np.sqrt(margin), 0.0)


METRICS = (
    Metric("accuracy", "Accuracy", lambda r: (r.tp + r.tn) / r.rows, shifting=True),
    Metric("precision", "Precision", lambda r: r.tp / (r.tp + r.fp), shifting=True),
    Metric("recall", "Recall", lambda r: r.tp / (r.tp + r.fn)),
    Metric("specificity", "Specificity", lambda r: r.tn / (r.tn + r.fp)),
    Metric("f1", "F1", lambda r: 2 * r.tp / (2 * r.tp + r.fp + r.fn), shifting=True),
    Metric("mcc", "MCC", _mcc, shifting=True),
    Metric("roc_auc", "ROC-AUC", lambda r: r.areas[0]),
    Metric("pr_auc", "PR-AUC", lambda r: r.areas[1], shifting=True),
    Metric("brier", "Brier score", lambda r: r.squares / r.rows, higher_is_better=False, calibrated=True),
    Metric(
        "ece",
        "Calibration error",
        lambda r: r.gaps / r.rows,
        resampled=False,  # it only grows by resampling; `calibration.calibration_error` gives its interval
        higher_is_better=False,
        calibrated=True,
    ),
    Metric("log_loss", "Log loss", lambda r: r.losses / r.rows, higher_is_better=False, calibrated=True),
)
KEYS = tuple(metric.key for metric in METRICS)


def binary_metrics(labels: Labels, scores: Floats, prevalence: float | None = None) -> dict[str, float]:
    """Return each of `METRICS` by its key, for viral probabilities `scores`.

    A metric that its data do not define (precision without a viral call, an area with one class) is NaN.

    Args:
        labels: [n].
        scores: [n].
        prevalence: Share of viral rows to compute the metrics for; by default that of the rows themselves.
    """
    shares = np.ones(2) if prevalence is None else class_weights(labels, prevalence)
    rows = Weighted(Weights(shares[None], labels.astype(np.int64)), labels, scores)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {metric.key: float(metric.of(rows)[0]) for metric in METRICS}


def class_weights(labels: Labels, prevalence: float) -> Floats:
    """Return the weights of a non-viral and a viral row, [2], that make a share `prevalence` of all rows viral."""
    shares = np.array([1 - labels.mean(), labels.mean()])
    return np.divide([1 - prevalence, prevalence], shares, out=np.zeros(2), where=shares > 0)


def mcnemar(baseline_right: NDArray[np.bool_], candidate_right: NDArray[np.bool_]) -> dict[str, float]:
    """Return McNemar's exact test of two paired classifiers: rows that only one classifies correctly, and the p-value.

    The test assumes independent rows, but frames of one genome are not: its p-value is too small, and no rule uses it.
    """
    from scipy.stats import binomtest  # takes a second to import

    only_baseline = int((baseline_right & ~candidate_right).sum())
    only_candidate = int((~baseline_right & candidate_right).sum())
    total = only_baseline + only_candidate
    p_value = float(binomtest(only_candidate, total, 0.5).pvalue) if total else 1.0
    return {"only_baseline": only_baseline, "only_candidate": only_candidate, "p_value": p_value}
