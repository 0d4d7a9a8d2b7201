"""The figures of an evaluation, a training and a comparison; their names are the same for all sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from virnuc.evaluation.evaluation import Evaluation
from virnuc.evaluation.sides import Comparison, Side
from virnuc.reports import plots
from virnuc.reports.plots import Drawing, Series, Style
from virnuc.reports.verdict import short_names


@dataclass(frozen=True)
class _Shown:
    """A side with its name and its style."""

    side: Side
    name: str
    style: Style

    @property
    def series(self) -> Series:
        """Its predictions, to draw."""
        table = self.side.evidence.predictions
        assert table is not None
        return Series(self.name, self.style, table["label"].to_numpy(dtype=np.int8), table["score"].to_numpy())


def evaluation_drawings(evaluation: Evaluation, name: str) -> dict[str, Drawing]:
    """Return the figures of one evaluated model, by file name."""
    style = plots.BASELINE
    table = evaluation.predictions
    labels = table["label"].to_numpy(dtype=np.int8)
    raw = Series(name, style, labels, table["score"].to_numpy())
    calibrated = Series(f"{name}, calibrated", plots.CALIBRATED, labels, table["calibrated"].to_numpy())
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
    shown = [one for one in _shown(comparison) if one.side.evidence.predictions is not None]
    series = [one.series for one in shown]
    judged = [one for one in series if one.style is not plots.CONTROL]
    drawings = {f"confusion_matrix_{place}": plots.confusion_matrix(one) for place, one in enumerate(judged, 1)}
    drawings |= {"roc": plots.roc(series), "precision_recall": plots.precision_recall(series)}
    drawings |= {f"score_distribution_{place}": plots.score_distribution(one) for place, one in enumerate(judged, 1)}
    drawings["calibration"] = plots.calibration(judged)
    by_group = [(one.name, one.style, one.side.tables["group"].to_dict("records")) for one in shown]
    drawings["accuracy_by_group"] = plots.group_accuracy(by_group)
    return drawings | _optional(shown)


def _optional(shown: Sequence[_Shown]) -> dict[str, Drawing]:
    """Return the figures whose evidence may be missing: speed and training."""
    drawings = {}
    bars: dict[str, tuple[str, Style, int, list[float]]] = {}
    for one in shown:
        for role, timed in one.side.evidence.speed.sides.items() if one.side.evidence.speed else ():
            style = plots.BASELINE if role == "baseline" else one.style
            runs = [run.total_s for run in timed.runs]
            bars[f"{role} {one.name}"] = (str(timed.provenance["name"]), style, timed.frames, runs)
    if bars:
        drawings["speed"] = plots.speed_bars(list(bars.values()))
    trained = [(one.name, one.style, one.side.evidence.history) for one in shown if one.side.evidence.history]
    if trained:
        drawings["loss_curves"] = plots.epoch_curves(trained, ("val/loss", "train/loss"), "Loss", "cross-entropy")
    return drawings


def _shown(comparison: Comparison) -> list[_Shown]:
    """Return all sides, each with the style that it has in every figure and the warning that its name carries."""
    candidates = [plots.CANDIDATES[place % len(plots.CANDIDATES)] for place in range(len(comparison.pairs))]
    baseline = [plots.BASELINE] if comparison.baseline else []
    styles = [*baseline, *candidates, *(plots.CONTROL for _ in comparison.controls)]
    names = short_names([side.evidence for side in comparison.sides])
    return [
        _Shown(side, name + (" (random weights)" if "random" in side.evidence.weights.values() else ""), style)
        for side, name, style in zip(comparison.sides, names, styles, strict=True)
    ]
