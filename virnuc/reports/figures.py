"""Which figures go with an evaluation, a training and a comparison; names are alike for all sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from virnuc import plots
from virnuc.comparison import Comparison, Side
from virnuc.evaluation import Evaluation
from virnuc.plots import Drawing, Series, Style


def evaluation_drawings(evaluation: Evaluation, name: str) -> dict[str, Drawing]:
    """Return the figures of one evaluated model, by file name."""
    style = plots.BASELINE
    table = evaluation.predictions
    labels = table["label"].to_numpy(dtype=np.int8)
    raw = Series(name, style, labels, table["score"].to_numpy())
    calibrated = Series(f"{name}, calibrated", plots.CANDIDATES[0], labels, table["calibrated"].to_numpy())
    return {
        "confusion_matrix": plots.confusion_matrix(raw),
        "roc": plots.roc([raw]),
        "precision_recall": plots.precision_recall([raw]),
        "calibration": plots.calibration([raw, calibrated]),
        "score_distribution": plots.score_distribution(raw),
        "accuracy_by_group": plots.group_accuracy([(name, style, evaluation.tables["group"].to_dict("records"))]),
    }


def training_drawings(history: Mapping[str, Sequence[float]], name: str) -> dict[str, Drawing]:
    """Return the figures of one training, by file name; `history` has each epoch metric's values by MLflow key."""
    side = [(name, plots.BASELINE, history)]
    return {
        "loss_curves": plots.epoch_curves(side, ("val/loss", "train/loss"), "Loss", "cross-entropy"),
        "learning_rate": plots.epoch_curves(side, ("lr",), "Learning rate", "learning rate"),
    }


def comparison_drawings(comparison: Comparison) -> dict[str, Drawing]:
    """Return the figures of a comparison, by file name, in the order of the report."""
    styled = [(side, style) for side, style in _styled(comparison) if side.evidence.predictions is not None]
    series = [_series(side, style) for side, style in styled]
    judged = [one for one, (_, style) in zip(series, styled, strict=True) if style is not plots.CONTROL]
    drawings = {f"confusion_matrix_{place}": plots.confusion_matrix(one) for place, one in enumerate(judged, 1)}
    drawings |= {"roc": plots.roc(series), "precision_recall": plots.precision_recall(series)}
    drawings["calibration"] = plots.calibration(judged)
    drawings |= {f"score_distribution_{place}": plots.score_distribution(one) for place, one in enumerate(judged, 1)}
    by_group = [(_name(side), style, side.tables["group"].to_dict("records")) for side, style in styled]
    drawings["accuracy_by_group"] = plots.group_accuracy(by_group)
    return drawings | _optional(styled)


def _optional(styled: Sequence[tuple[Side, Style]]) -> dict[str, Drawing]:
    """Return the figures whose evidence may be missing: speed and training."""
    drawings = {}
    timed = [
        (side.evidence.speed.encoder, style, side.evidence.speed.frames, side.evidence.speed.runs)
        for side, style in styled
        if side.evidence.speed
    ]
    if timed:
        drawings["speed"] = plots.speed_bars(timed)
    trained = [(_name(side), style, side.evidence.history) for side, style in styled if side.evidence.history]
    if trained:
        drawings["loss_curves"] = plots.epoch_curves(trained, ("val/loss", "train/loss"), "Loss", "cross-entropy")
    return drawings


def _styled(comparison: Comparison) -> list[tuple[Side, Style]]:
    first = [(comparison.baseline, plots.BASELINE)] if comparison.baseline else []
    candidates = [
        (pair.candidate, plots.CANDIDATES[place % len(plots.CANDIDATES)]) for place, pair in enumerate(comparison.pairs)
    ]
    return [*first, *candidates, *((pair.candidate, plots.CONTROL) for pair in comparison.controls)]


def _series(side: Side, style: Style) -> Series:
    table = side.evidence.predictions
    assert table is not None
    return Series(_name(side), style, table["label"].to_numpy(dtype=np.int8), table["score"].to_numpy())


def _name(side: Side) -> str:
    random = " (random weights)" if "random" in side.evidence.weights.values() else ""
    return side.evidence.encoder + random
