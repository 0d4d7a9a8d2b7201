"""The figures of a prediction: the distribution of scores, and the viral regions along sequences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from virnuc.reports.plots import BASELINE, CANDIDATES, INK, NON_VIRAL, SOFT, VIRAL, Drawing, Look, style_axes

MAX_TITLE = 48  # letters of a sequence's name


def histogram(
    spread: Mapping[str, NDArray[np.int64]], viral: Mapping[str, int], bins: NDArray[np.float64], threshold: float
) -> Drawing:
    """Draw how many chunks have which viral probability.

    Args:
        spread: Counts of chunks by bin, for each kind of chunk.
        viral: Chunks called viral, for each kind.
        bins: Edges of the bins.
        threshold: Lowest probability of a virus.
    """
    figure = Figure(figsize=(4.4, 3.5), layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, "viral probability of a chunk", "chunks")
    told = []
    for (kind, heights), style in zip(spread.items(), (BASELINE, *CANDIDATES), strict=False):
        look: Look = {"color": style.colour, "linestyle": style.line, "linewidth": 1.8}
        axes.stairs(heights, bins, baseline=None, label=kind, **look)
        told.append(f"{viral[kind]:,} of {heights.sum():,} chunks {kind} are called viral")
    axes.axvline(threshold, color=INK, linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(0, None))
    look = {"frameon": False, "fontsize": 8.5, "labelcolor": INK}
    figure.legend(loc="outside upper center", ncols=2, **look)
    caption = f"Chunks right of the line, from {threshold:g}, are called viral."
    return Drawing(figure, "Scores of all chunks", f"Histogram; {'; '.join(told)}.", caption)


def regions(longest: pd.DataFrame, windows: pd.DataFrame, found: pd.DataFrame, threshold: float) -> Drawing:
    """Draw the viral probability along each sequence: above the threshold viral, below it non-viral; and its regions.

    Args:
        longest: Sequences to draw: `record`, `sequence`.
        windows: Along each of them: `record`, `start`, `end` (bp), `probability` (NaN without a score), `open` (whether
            any chunk of the window has an open frame).
        found: Viral regions: `record`, `start`, `end` (bp).
        threshold: Lowest probability of a virus.
    """
    figure = Figure(figsize=(4.4, 0.5 + 0.85 * len(longest)), layout="constrained")
    rows = figure.subplots(len(longest), 1, squeeze=False)[:, 0]
    told = []
    for axes, sequence in zip(rows, longest.itertuples(), strict=True):
        own = windows[windows["record"] == sequence.record].sort_values("start")
        start, probability = own["start"].to_numpy() / 1000, own["probability"].to_numpy()
        end = np.append(start[1:], own["end"].iloc[-1] / 1000)
        x, y = np.column_stack([start, end]).ravel(), np.repeat(probability, 2)
        axes.fill_between(x, threshold, np.maximum(y, threshold), color=VIRAL, linewidth=0)
        axes.fill_between(x, threshold, np.minimum(y, threshold), color=NON_VIRAL, linewidth=0)
        unsure = ~own["open"].to_numpy()
        axes.plot(((start + end) / 2)[unsure], np.full(unsure.sum(), -0.09), "|", color=SOFT, markersize=3)
        mine = found[found["record"] == sequence.record]
        axes.hlines(np.full(len(mine), 1.1), mine["start"] / 1000, mine["end"] / 1000, color=INK, linewidth=3)
        style_axes(axes, "", "")
        axes.set(ylim=(-0.15, 1.18), yticks=[0, 1], xlim=(0, end[-1]))
        name = sequence.sequence
        shown = name if len(name) <= MAX_TITLE else f"{name[: MAX_TITLE - 3]}..."
        axes.set_title(shown, fontsize=8, loc="left", color=INK, parse_math=False)
        share = float(np.average(probability >= threshold, weights=own["end"] - own["start"]))
        told.append(f"{name} {share:.0%} viral, {len(mine)} regions")
    rows[-1].set_xlabel("position (kbp)", color=SOFT, fontsize=9)
    caption = (
        f"Viral probability from 0 to 1; above the threshold of {threshold:g} viral (purple), below it non-viral "
        "(green). Bars above: viral regions. Ticks below: no chunk there has an open frame, so the score is less sure."
    )
    return Drawing(figure, "Along sequences", f"Share of each length: {', '.join(told)}.", caption)
