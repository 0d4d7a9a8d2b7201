"""Calibration, decided on validation frames and only then applied to test frames.

A temperature divides the logits, so it changes probabilities and no call. A threshold trades missed viruses for
fewer false ones; it is chosen for a false-discovery rate on validation, and what it gives on test is reported.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from virnuc.evaluation.metrics import Floats

FALSE_DISCOVERY_RATE = 0.05
_RANGE = (-3.0, 3.0)  # of log(temperature); outside it the classifier is not miscalibrated but broken


def fit_temperature(labels: NDArray[np.int8], margins: Floats) -> float:
    """Return the temperature with the lowest log loss.

    Args:
        labels: 1 viral, 0 non-viral, int8 [n], of validation frames.
        margins: viral logit - non-viral logit, float64 [n].
    """
    signed = np.where(labels == 1, margins, -margins)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_RANGE, method="bounded").x))


def viral_probability(margins: Floats, temperature: float = 1.0) -> Floats:
    """Return the viral probability of logit margins, float64 [n]: the softmax of two logits at a temperature."""
    return np.asarray(expit(margins / temperature), dtype=np.float64)


def threshold_for(labels: NDArray[np.int8], scores: Floats, rate: float = FALSE_DISCOVERY_RATE) -> float:
    """Return the lowest threshold at which at most a share `rate` of the viral calls is wrong; NaN if there is none.

    A frame is called viral if its score is at least the threshold.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.diff(scores[order], append=np.nan) != 0  # equal scores are called together
    wrong = np.cumsum(labels[order] == 0) / np.arange(1, len(scores) + 1)
    allowed = np.flatnonzero(ends & (wrong <= rate))
    return float(scores[order][allowed[-1]]) if len(allowed) else np.nan


def at_threshold(labels: NDArray[np.int8], scores: Floats, threshold: float) -> dict[str, float]:
    """Return what a threshold gives: the false-discovery rate, recall and specificity."""
    called, viral = scores >= threshold, labels == 1
    return {
        "false_discovery_rate": float((called & ~viral).sum() / called.sum()) if called.any() else np.nan,
        "recall": float((called & viral).sum() / viral.sum()) if viral.any() else np.nan,
        "specificity": float((~called & ~viral).sum() / (~viral).sum()) if not viral.all() else np.nan,
    }
