"""Figures as functions of plain arrays.

A side has the same colour, line and marker in every figure: colours of Okabe and Ito, which colour-blind readers tell
apart, and line styles for print without colour. Each drawing has an alternative text with its numbers. Figures are
small, so that their text stays readable where a page is as narrow as a telephone; no display and no global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn import metrics as skm

from virnuc.evaluation.weighted import ECE_BINS, Floats, calibration_bins

INK, SOFT, GRID = "#1c2330", "#566072", "#e3e7ee"
VIRAL, NON_VIRAL = "#AA3377", "#228833"
_POINTS = 400  # of a curve: more cannot be seen and would make the page heavy
_SIZE = (4.4, 3.5)  # inches
Look = dict[str, Any]  # keywords of matplotlib


@dataclass(frozen=True)
class Style:
    """How one side looks."""

    colour: str
    line: str
    marker: str


BASELINE = Style("#0072B2", "-", "o")
CANDIDATES = (Style("#D55E00", "--", "s"), Style("#CC79A7", (0, (5, 1, 1, 1)), "D"), Style("#E69F00", "-.", "v"))  # type: ignore[arg-type]
CALIBRATED = Style("#0072B2", ":", "^")  # the same side after its temperature
CONTROL = Style("#6b7280", ":", "^")


@dataclass(frozen=True)
class Series:
    """The predictions of one side."""

    name: str
    style: Style
    labels: NDArray[np.int8]  # [n] 1 viral, 0 non-viral
    scores: Floats  # [n] viral probability


@dataclass(frozen=True)
class Drawing:
    """A figure with the words that go with it."""

    figure: Figure
    title: str
    alt: str
    caption: str


def confusion_matrix(series: Series) -> Drawing:
    """Draw how many frames of each class are called what."""
    counts = skm.confusion_matrix(series.labels, series.scores >= 0.5, labels=[0, 1])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes()
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(2, 2):
        text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
        colour = "white" if shares[row, column] > 0.55 else INK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=11)
    axes.set_xticks([0, 1], ["non-viral", "viral"])
    axes.set_yticks([0, 1], ["non-viral", "viral"], rotation=90, va="center")
    axes.set(xlabel="predicted", ylabel="true", title=series.name)
    (tn, fp), (fn, tp) = counts
    alt = (
        f"Confusion matrix of {series.name}: {tp:,} viral frames called viral and {fn:,} non-viral; {tn:,} non-viral "
        f"frames called non-viral and {fp:,} viral."
    )
    return Drawing(figure, f"Confusion matrix, {series.name}", alt, "Frames, with the share of each true class.")


def roc(sides: Sequence[Series]) -> Drawing:
    """Draw the ROC curves of all sides in one figure."""
    figure, axes = _axes("false-positive rate", "true-positive rate")
    areas = []
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
    for side in sides:
        x, y, _ = skm.roc_curve(side.labels, side.scores)
        area = skm.roc_auc_score(side.labels, side.scores)
        areas.append(f"{side.name} {area:.3f}")
        _curve(axes, x, y, side, f"{side.name}, {area:.3f}")
    _finish(axes, "lower right")
    alt = f"ROC curves; area under the curve: {', '.join(areas)}."
    return Drawing(figure, "ROC", alt, "The legend gives the area under each curve; the dotted diagonal is chance.")


def precision_recall(sides: Sequence[Series]) -> Drawing:
    """Draw the precision-recall curves of all sides in one figure."""
    figure, axes = _axes("recall", "precision")
    areas = []
    share = float(np.mean(sides[0].labels))
    axes.axhline(share, color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
    for side in sides:
        y, x, _ = skm.precision_recall_curve(side.labels, side.scores)
        area = skm.average_precision_score(side.labels, side.scores)
        areas.append(f"{side.name} {area:.3f}")
        _curve(axes, x[::-1], y[::-1], side, f"{side.name}, {area:.3f}")
    _finish(axes, "lower left")
    alt = f"Precision-recall curves; average precision: {', '.join(areas)}."
    caption = f"The legend gives the average precision; the dotted line is chance ({share:.0%} of frames are viral)."
    return Drawing(figure, "Precision and recall", alt, caption)


def calibration(sides: Sequence[Series]) -> Drawing:
    """Draw predicted against observed shares of viral frames."""
    figure, axes = _axes("predicted viral probability", "observed share of viral frames")
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
    worst = []
    for side in sides:
        bins = calibration_bins(side.scores)
        counts = np.bincount(bins, minlength=ECE_BINS)
        used = counts >= 10  # fewer frames say nothing about a share
        x = np.bincount(bins, weights=side.scores, minlength=ECE_BINS)[used] / counts[used]
        y = np.bincount(bins, weights=side.labels, minlength=ECE_BINS)[used] / counts[used]
        look: Look = {"color": side.style.colour, "linestyle": side.style.line, "marker": side.style.marker}
        axes.plot(x, y, label=side.name, markersize=4, linewidth=1.6, **look)
        worst.append(f"{side.name} {np.abs(x - y).max(initial=0):.2f}")
    _finish(axes, "upper left")
    alt = f"Calibration curves; largest distance from the diagonal: {', '.join(worst)}."
    caption = "On the diagonal probabilities mean what they say; below it, too high. No point for fewer than 10 frames."
    return Drawing(figure, "Calibration", alt, caption)


def score_distribution(series: Series) -> Drawing:
    """Draw histograms of the viral probability, viral and non-viral frames apart."""
    figure, axes = _axes("viral probability", "share of the class")
    medians = []
    for label, name, colour, hatch in ((1, "viral", VIRAL, None), (0, "non-viral", NON_VIRAL, "///")):
        scores = series.scores[series.labels == label]
        weights = np.full(len(scores), 1 / max(1, len(scores)))
        look: Look = {"color": colour, "alpha": 0.55, "edgecolor": colour, "hatch": hatch}
        axes.hist(scores, bins=30, range=(0, 1), weights=weights, label=name, **look)
        medians.append(f"{name} {np.median(scores):.2f}" if len(scores) else f"no {name} frames")
    axes.axvline(0.5, color=INK, linewidth=0.8)
    _finish(axes, "outside", limits=False)
    alt = f"Viral probabilities given by {series.name}; medians: {', '.join(medians)}."
    return Drawing(figure, f"Scores, {series.name}", alt, "Frames right of the line are called viral.")


def epoch_curves(
    sides: Sequence[tuple[str, Style, Mapping[str, Sequence[float]]]], keys: Sequence[str], title: str, ylabel: str
) -> Drawing:
    """Draw metrics over epochs.

    Args:
        sides: Name, style and each metric's values by epoch.
        keys: The metrics to draw, at most two: the first thick, the second thin.
        title: What the figure shows.
        ylabel: What the values are.
    """
    figure, axes = _axes("epoch", ylabel)
    last = []
    for name, style, history in sides:
        for key, width in zip(keys, (1.8, 0.9), strict=False):
            values = history.get(key, ())
            label = f"{name}, {key}" if len(keys) > 1 else name
            axes.plot(
                range(1, len(values) + 1), values, label=label, color=style.colour, ls=style.line, linewidth=width
            )
            if len(values):
                last.append(f"{label} {values[-1]:.3g}")
    _finish(axes, "best", limits=False)
    return Drawing(figure, title, f"{title} over epochs; last values: {'; '.join(last)}.", "One value an epoch.")


def learning_curve(name: str, style: Style, rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw validation accuracy over the number of training genomes; `rows` has `genomes` and `accuracy` of each."""
    figure, axes = _axes("training genomes", "validation accuracy")
    genomes = sorted({row["genomes"] for row in rows})
    means = [np.mean([row["accuracy"] for row in rows if row["genomes"] == count]) for count in genomes]
    axes.plot(genomes, means, label=f"{name}, mean", color=style.colour, ls=style.line)
    every = [[row[key] for row in rows] for key in ("genomes", "accuracy")]
    axes.scatter(every[0], every[1], label="each training", color=style.colour, marker=style.marker, s=14)
    axes.set_xscale("log", base=2)
    axes.set_xticks(genomes, [f"{count:,}" for count in genomes])
    axes.minorticks_off()
    _finish(axes, "lower right", limits=False)
    told = "; ".join(f"{count:,} genomes {mean:.3f}" for count, mean in zip(genomes, means, strict=True))
    return Drawing(figure, "Learning curve", f"Mean validation accuracy of {name}: {told}.", "A point a training.")


def group_accuracy(sides: Sequence[tuple[str, Style, Sequence[Mapping[str, Any]]]]) -> Drawing:
    """Draw accuracy by group with its intervals; `sides` has rows of `strata` for each name and style."""
    every = [row for _, _, rows in sides for row in rows]
    groups = sorted({str(row["stratum"]) for row in every if np.isfinite(row["accuracy"])}, reverse=True)
    empty = ", ".join(sorted({str(row["stratum"]) for row in every} - set(groups)))
    figure, axes = _axes("accuracy (95 % interval over genomes)", "", (4.4, 1.4 + 0.36 * len(groups)))
    told = []
    for index, (name, style, rows) in enumerate(sides):
        offset = 0.22 * ((len(sides) - 1) / 2 - index)
        known = [row for row in rows if np.isfinite(row["accuracy"])]
        y = np.array([groups.index(str(row["stratum"])) + offset for row in known])
        x = np.array([row["accuracy"] for row in known])
        ends = np.array([[x - row["low"], row["high"] - x] for x, row in zip(x, known, strict=True)]).reshape(-1, 2)
        look: Look = {"color": style.colour, "fmt": style.marker, "markersize": 4.5, "linewidth": 1.4}
        axes.errorbar(x, y, xerr=np.nan_to_num(ends).clip(0).T, label=name, **look)
        told.append(f"{name}: " + ", ".join(f"{row['stratum']} {row['accuracy']:.2f}" for row in known))
    axes.set_yticks(range(len(groups)), [group.replace("_", " ") for group in groups])
    axes.set_ylim(-0.6, len(groups) - 0.4)
    _finish(axes, "outside", limits=False)
    return Drawing(
        figure,
        "Accuracy by group",
        f"Accuracy by group. {'; '.join(told)}.",
        "Recall for viral, specificity for non-viral groups; no bar where genomes are too few for an interval."
        + (f" Left out, with too few frames: {empty}." if empty else ""),
    )


def speed_bars(sides: Sequence[tuple[str, Style, int, Sequence[float]]]) -> Drawing:
    """Draw frames embedded a second; `sides` has name, style, frames and seconds of each timed run."""
    figure, axes = _axes("frames embedded a second", "", (4.4, 1.2 + 0.6 * len(sides)))
    told: list[str] = []
    for place, (name, style, frames, seconds) in enumerate(reversed(sides)):
        rates = frames / np.asarray(seconds, dtype=float)
        rate = frames / float(np.median(seconds))
        axes.barh(place, rate, height=0.55, color=style.colour)
        axes.plot(rates, np.full(len(rates), place), linestyle="", marker="|", color=INK, markersize=10)
        axes.annotate(f" {rate:,.0f}", (max(rate, *rates), place), va="center", fontsize=9, color=INK)
        told.insert(0, f"{name} {rate:,.0f}")
    axes.set_yticks(range(len(sides)), [name for name, *_ in reversed(sides)])
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    caption = "Median of the timed runs; ticks are the single runs."
    return Drawing(figure, "Embedding speed", f"Frames embedded a second: {', '.join(told)}.", caption)


def _axes(xlabel: str = "", ylabel: str = "", size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, xlabel, ylabel)
    return figure, axes


def style_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Give axes their labels and the look that all figures share."""
    axes.set_xlabel(xlabel, color=SOFT)
    axes.set_ylabel(ylabel, color=SOFT)
    axes.tick_params(colors=SOFT, labelsize=9, length=0)
    axes.title.set(color=INK, fontsize=10)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _curve(axes: Axes, x: Floats, y: Floats, side: Series, label: str) -> None:
    """Draw a curve given by rising `x`, thinned to points that can be told apart."""
    if len(x) > _POINTS:
        length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
        kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _POINTS)).clip(0, len(x) - 1))
        x, y = x[kept], y[kept]
    axes.plot(x, y, label=label, color=side.style.colour, linestyle=side.style.line, linewidth=1.8)


def _finish(axes: Axes, place: Any, limits: bool = True) -> None:
    """Add the legend and, for axes that both hold shares, their limits."""
    if limits:
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    look: Look = {"frameon": False, "fontsize": 8.5, "labelcolor": INK}
    if place == "outside":
        axes.figure.legend(loc="outside upper center", ncols=2, **look)
    elif axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, **look)
