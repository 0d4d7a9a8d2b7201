"""A page on a prediction: how many of what, how the scores are spread, and where along the sequences viruses are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from virnuc.files import atomic_path, write_text
from virnuc.prediction.calls import NON_VIRAL, VIRAL
from virnuc.prediction.chunks import ANSWERED

SUMMARY, HISTOGRAM, STRETCHES = "summary.md", "histogram.png", "stretches.png"
_BINS = np.linspace(0, 1, 41)
_MOST_SEQUENCES, _FEWEST_CHUNKS = 8, 5  # drawn along their length
_COLOURS = {"scored": "#0072b2", "no_open_frame": "#e69f00"}


def write_summary(out: Path, counts: Mapping[str, Any]) -> None:
    """Write summary.md and its two figures beside the finished tables of `out`, one batch of rows in memory at a time.

    Args:
        out: directory that holds the tables.
        counts: `in` and `out` of the manifest.
    """
    spread = {status: np.zeros(len(_BINS) - 1) for status in ANSWERED}
    for batch in pq.ParquetFile(out / "calls.parquet").iter_batches(columns=["status", "probability"]):
        table = batch.to_pandas()
        for status in ANSWERED:
            spread[status] += np.histogram(table.loc[table["status"] == status, "probability"], _BINS)[0]
    _save(_histogram(spread), out / HISTOGRAM)
    labels: Counter[str] = Counter()
    longest = pd.DataFrame()
    columns = ["record", "sequence", "chunks", "label"]
    for batch in pq.ParquetFile(out / "sequences.parquet").iter_batches(columns=columns):
        table = batch.to_pandas()
        labels.update(table["label"])
        longest = pd.concat([longest, table[table["chunks"] >= _FEWEST_CHUNKS]]).nlargest(_MOST_SEQUENCES, "chunks")
    if len(longest):
        filters = [("record", "in", longest["record"].tolist())]
        _save(_stretches(longest, pd.read_parquet(out / "calls.parquet", filters=filters)), out / STRETCHES)
    statuses = [f"| {name} | {count:,} |" for name, count in counts["out"].items()]
    lines = [
        "# Prediction",
        f"{counts['in']['sequences']:,} sequences, {counts['in']['bases']:,} bases.",
        f"Sequences called: {labels[VIRAL]:,} virus, {labels[NON_VIRAL]:,} others, {labels['']:,} without a score.",
        "\n".join(["| chunks | |", "|---|---|", *statuses]),
        f"![Scores of all chunks]({HISTOGRAM})",
        *([f"![Scores along the longest sequences]({STRETCHES})"] if len(longest) else []),
        "Chunks with status `no_open_frame` are scored by their longest stretch without a stop codon: less certain.",
    ]
    write_text(out / SUMMARY, "\n\n".join(lines) + "\n")


def _histogram(spread: Mapping[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for status, heights in spread.items():
        axes.stairs(heights, _BINS, label=status, color=_COLOURS[status], linewidth=2)
    axes.set(xlabel="viral probability of a chunk", ylabel="chunks", xlim=(0, 1))
    axes.legend(frameon=False)
    return figure


def _stretches(longest: pd.DataFrame, calls: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(9, 1.2 + 1.1 * len(longest)), layout="constrained")
    rows = figure.subplots(len(longest), 1, squeeze=False)[:, 0]
    for axes, sequence in zip(rows, longest.itertuples(), strict=True):
        own = calls[calls["record"] == sequence.record]
        middle = (own["start"] + own["end"]) / 2000
        axes.fill_between(middle, 0.5, own["probability"], step="mid", alpha=0.25, color="#555555", linewidth=0)
        for status, colour in _COLOURS.items():
            shown = own["status"] == status
            axes.scatter(middle[shown], own["probability"][shown], s=8, color=colour, label=status)
        axes.axhline(0.5, color="#555555", linewidth=0.8)
        axes.set(ylim=(-0.05, 1.05), yticks=[0, 0.5, 1])
        axes.set_title(sequence.sequence.replace("$", r"\$"), fontsize=8, loc="left")
    rows[0].legend(frameon=False, fontsize=7, ncols=2, loc="upper right")
    rows[-1].set_xlabel("position (kbp); above the line viral, below non-viral")
    return figure


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
