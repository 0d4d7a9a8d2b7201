"""Calibration, decided on validation frames and only then applied to test frames.

A temperature divides the logits, so it changes probabilities and no call. A threshold trades missed viruses for
fewer false ones; it is chosen on validation for a false-discovery rate at a stated share of viral frames, and what
it gives on test at that share is reported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from virnuc.evaluation.intervals import Draws
from virnuc.evaluation.metrics import class_weights
from virnuc.evaluation.weighted import ECE_BINS, Floats, Labels, Weighted, calibration_bins

FALSE_DISCOVERY_RATE = 0.05
_PERFECT = 200  # draws of labels
_RANGE = (-3.0, 3.0)  # of log(temperature); outside it the classifier is not miscalibrated but broken


def fit_temperature(labels: Labels, margins: Floats) -> float:
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


def threshold_for(labels: Labels, scores: Floats, prevalence: float, rate: float = FALSE_DISCOVERY_RATE) -> float:
    """Return the lowest threshold at which at most a share `rate` of the viral calls is wrong; NaN if there is none.

    A frame is called viral if its score is at least the threshold, and a share `prevalence` of the frames is viral.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.diff(scores[order], append=np.nan) != 0  # equal scores are called together
    weights = class_weights(labels, prevalence)[labels[order]]
    wrong = np.cumsum(weights * (labels[order] == 0)) / np.cumsum(weights)
    allowed = np.flatnonzero(ends & (wrong <= rate))
    return float(scores[order][allowed[-1]]) if len(allowed) else np.nan


def at_threshold(predictions: pd.DataFrame, threshold: float, prevalence: float, draws: Draws) -> dict[str, float]:
    """Return false-discovery rate and recall at a threshold and a prevalence, each with the ends of its interval."""
    labels = predictions["label"].to_numpy(dtype=np.int8)
    called = predictions["score"].to_numpy() >= threshold
    columns = np.stack([called & (labels == 1), called & (labels == 0), labels == 1, labels == 0], axis=1)
    found: dict[str, float] = {}
    plain, drawn = columns.sum(axis=0)[None].astype(float), draws.totals(columns.astype(float))
    for name, of in (("false_discovery_rate", _false_discoveries), ("recall", lambda t, _: t[:, 0] / t[:, 2])):
        with np.errstate(invalid="ignore", divide="ignore"):
            ends = draws.interval(float(of(plain, prevalence)[0]), of(drawn, prevalence))
        found |= {name: ends.value, f"{name}_low": ends.low, f"{name}_high": ends.high}
    return found


def _false_discoveries(totals: Floats, prevalence: float) -> Floats:
    """Return the share of wrong viral calls from sums [k, 4]: viral and other rows called, viral and other rows."""
    right, wrong = prevalence * totals[:, 0] / totals[:, 2], (1 - prevalence) * totals[:, 1] / totals[:, 3]
    return np.asarray(wrong / (right + wrong))


def calibration_error(predictions: pd.DataFrame, draws: Draws) -> dict[str, float]:
    """Return the calibration error, what it would be under perfect calibration, and the ends of its interval.

    With finitely many frames it is above zero even then: that value is the mean over labels drawn by the predicted
    probabilities. Resampling genomes raises it as well, by the mean of the draws over the value, which is taken off.
    """
    labels, scores = predictions["label"].to_numpy(dtype=np.int8), predictions["score"].to_numpy()
    bins, rng = calibration_bins(scores), np.random.default_rng(len(scores))

    def error(labels: NDArray[Any]) -> float:
        return float(np.abs(np.bincount(bins, weights=scores - labels, minlength=ECE_BINS)).sum() / len(scores))

    value = error(labels)
    perfect = [error(rng.random(len(scores)) < scores) for _ in range(_PERFECT)]
    rows = Weighted(draws, labels, scores)
    drawn = rows.gaps / rows.rows
    ends = draws.interval(value, np.maximum(drawn - (drawn.mean() - value), 0))
    return {"ece": value, "ece_if_perfect": float(np.mean(perfect)), "ece_low": ends.low, "ece_high": ends.high}
