"""The summary of a prediction, as a page and as Markdown: counts, distribution of scores, viral regions, the model.

The finished tables are read one batch of rows at a time, so that memory stays bounded. For a sequence with many chunks
the figure shows means over windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from virnuc.prediction.calls import NON_VIRAL, VIRAL
from virnuc.prediction.chunks import AMBIGUOUS, ANSWERED, NO_OPEN_FRAME, SCORED, STATUSES, TOO_SHORT
from virnuc.prediction.plots import histogram, regions
from virnuc.reports.content import Section, Table, number
from virnuc.reports.plots import Drawing
from virnuc.reports.rendering import Page, write_page

SUMMARY = "summary"
_BINS = np.linspace(0, 1, 41)
_LISTED = 10  # sequences in a table
_DRAWN, _MIN_CHUNKS, _WINDOWS = 8, 5, 200  # sequences along their length, their chunks at least, windows at most
_KINDS = {SCORED: "with an open frame", NO_OPEN_FRAME: "without one"}
_MEANINGS = {
    SCORED: "scored by its open frames",
    NO_OPEN_FRAME: "has no open frame; scored by a fallback (column scored_by), less certain",
    AMBIGUOUS: "no score: too many unknown bases",
    TOO_SHORT: "no score: nothing in it is long enough",
}
_SHOWN = ["record", "sequence", "file", "length", "chunks", "probability", "label", "strongest_chunk", "frame"]
_COLUMNS = ("Sequence", "File", "bp", "Chunks", "Probability", "Call", "Strongest chunk")


@dataclass(frozen=True)
class About:
    """What a summary says about the model, besides its parameters."""

    facts: Mapping[str, str] = field(default_factory=dict)  # name, version, who promoted it
    caveats: tuple[str, ...] = ()  # such as a promotion against the gate


@dataclass(frozen=True)
class _Seen:
    """What the tables hold."""

    spread: dict[str, np.ndarray]  # chunks by bin of probability, for each answered status
    viral: dict[str, int]  # chunks called viral, for each answered status
    labels: Counter[str]  # sequences by call
    longest: pd.DataFrame
    most_viral: pd.DataFrame


def write_summary(out: Path, counts: Mapping[str, Any], parameters: Mapping[str, Any], about: About) -> None:
    """Write summary.html, summary.md and their figures beside the finished tables of `out`.

    Args:
        out: directory that holds the tables.
        counts: `in` and `out` of the manifest.
        parameters: those of the manifest.
        about: the model.
    """
    seen = _read(out)
    bases, sequences = counts["in"]["bases"], counts["in"]["sequences"]
    labels = seen.labels
    page = Page(
        kind="virnuc prediction",
        title=f"{sequences:,} sequences, {bases:,} bp",
        outcome=f"{labels[VIRAL]:,} virus",
        answer=f"{labels[VIRAL]:,} sequences are called virus and {labels[NON_VIRAL]:,} others; "
        f"{labels['']:,} have no score.",
        caveats=about.caveats,
        sections=(_counts(counts, seen), _sequences(seen), _model(parameters, about)),
        drawings=_drawings(out, seen, parameters["threshold"]),
        figures_after="counts",
    )
    write_page(page, out, SUMMARY)


def _read(out: Path) -> _Seen:
    spread = {status: np.zeros(len(_BINS) - 1, dtype=np.int64) for status in ANSWERED}
    viral, labels = dict.fromkeys(ANSWERED, 0), Counter[str]()
    for batch in pq.ParquetFile(out / "calls.parquet").iter_batches(columns=["status", "probability", "Prediction"]):
        table = batch.to_pandas()
        for status in ANSWERED:
            own = table[table["status"] == status]
            spread[status] += np.histogram(own["probability"], _BINS)[0]
            viral[status] += int((own["Prediction"] == VIRAL).sum())
    longest = most_viral = pd.DataFrame()
    for batch in pq.ParquetFile(out / "sequences.parquet").iter_batches(columns=_SHOWN):
        table = batch.to_pandas()
        labels.update(table["label"])
        longest = pd.concat([longest, table]).nlargest(_LISTED, "length")
        viruses = table[table["label"] == VIRAL]
        most_viral = pd.concat([most_viral, viruses]).nlargest(_LISTED, ["probability", "length"])
    return _Seen(spread, viral, labels, longest, most_viral)


def _counts(counts: Mapping[str, Any], seen: _Seen) -> Section:
    read, written = counts["in"], counts["out"]
    total = sum(written[status] for status in STATUSES)
    text = (
        f"In: {read['sequences']:,} sequences in {read['chunks']:,} chunks. Out: {written['sequences']:,} sequences in "
        f"{written['chunks']:,} chunks.",
    )
    called = [(name or "no score", f"{seen.labels[name]:,}") for name in (VIRAL, NON_VIRAL, "")]
    rows = [
        (
            status,
            f"{written[status]:,}",
            f"{written[status] / max(total, 1):.1%}",
            f"{seen.viral[status]:,}" if status in ANSWERED else "",
            _MEANINGS[status],
        )
        for status in STATUSES
    ]
    rows.append(("all", f"{total:,}", "", f"{sum(seen.viral.values()):,}", ""))
    columns = ("Status", "Chunks", "Share", "Called virus", "Meaning")
    tables = (
        Table("Sequences by call", ("Call", "Sequences"), tuple(called)),
        Table("Chunks by status", columns, tuple(rows)),
    )
    return Section("counts", "Counts", text, tables)


def _sequences(seen: _Seen) -> Section:
    tables = [Table("Longest", _COLUMNS, _rows(seen.longest))]
    if len(seen.most_viral):
        tables.insert(0, Table("Most viral", _COLUMNS, _rows(seen.most_viral)))
    text = ("A sequence's probability comes from the mean log-odds of its chunks. All sequences are in sequences.tsv.",)
    return Section("sequences", "Sequences", text, tuple(tables))


def _rows(table: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            row.sequence,
            row.file,
            f"{row.length:,}",
            f"{row.chunks:,}",
            number(None if np.isnan(row.probability) else row.probability),
            row.label or "no score",
            ", ".join(filter(None, [f"{row.strongest_chunk:.0f}", row.frame])) if row.label else "",
        )
        for row in table.itertuples()
    )


def _model(parameters: Mapping[str, Any], about: About) -> Section:
    rows = [*about.facts.items(), ("Digest", parameters["model"][:12])]
    rows += [("Chunk size", f"{parameters['chunk_size']} bp"), ("Threshold", f"{parameters['threshold']:g}")]
    return Section("model", "Model", tables=(Table("", ("", "Value"), tuple(rows)),))


def _drawings(out: Path, seen: _Seen, threshold: float) -> dict[str, Drawing]:
    spread = {_KINDS[status]: heights for status, heights in seen.spread.items()}
    viral = {_KINDS[status]: count for status, count in seen.viral.items()}
    drawings = {"histogram": histogram(spread, viral, _BINS, threshold)}
    drawn = seen.longest[seen.longest["chunks"] >= _MIN_CHUNKS].head(_DRAWN)
    if len(drawn):
        drawings["regions"] = regions(drawn, window_means(out, drawn), threshold)
    return drawings


def window_means(out: Path, drawn: pd.DataFrame, most: int = _WINDOWS) -> pd.DataFrame:
    """Return mean probabilities along sequences, each cut into windows of neighbouring chunks.

    Args:
        out: directory with calls.parquet.
        drawn: the sequences, with their columns record and chunks.
        most: windows of a sequence; one with fewer chunks has a window for each.

    Returns:
        A row a window: record, window, start and end in bp, probability (NaN where no chunk has one), n chunks with a
        probability, open if one of them has an open frame.
    """
    chunks, parts = drawn.set_index("record")["chunks"], []
    columns = ["record", "chunk", "start", "end", "probability", "status"]
    for batch in pq.ParquetFile(out / "calls.parquet").iter_batches(columns=columns):
        table = batch.to_pandas()
        table = table[table["record"].isin(chunks.index)]
        own = table["record"].map(chunks)
        window = (table["chunk"] - 1) * np.minimum(own, most) // own
        parts.append(table.assign(window=window, n=table["probability"].notna(), open=table["status"] == SCORED))
        parts = [_added(parts)]
    added = parts[0]
    return added.assign(probability=added["probability"] / added["n"].where(added["n"] > 0))


def _added(parts: list[pd.DataFrame]) -> pd.DataFrame:
    how = {"start": "min", "end": "max", "probability": "sum", "n": "sum", "open": "max"}
    return pd.concat(parts).groupby(["record", "window"], as_index=False).agg(how)
