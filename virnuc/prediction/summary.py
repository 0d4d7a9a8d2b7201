"""The summary of a prediction, as a page and as Markdown: counts, distribution of scores, viral regions, the model.

The finished tables are read one batch of rows at a time, so that memory stays bounded. For a sequence with many chunks
the figure shows means over windows. The page also has a table of all sequences that can be sorted and filtered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from virnuc.prediction.calls import VIRAL
from virnuc.prediction.chunks import AMBIGUOUS, ANSWERED, NO_OPEN_FRAME, SCORED, STATUSES, TOO_SHORT
from virnuc.prediction.regions import NO_VIRUS, WITH_REGIONS
from virnuc.prediction.tables import read_regions
from virnuc.reports.content import AllRows, Section, Table, number
from virnuc.reports.rendering import Page, write_page

if TYPE_CHECKING:
    from virnuc.reports.plots import Drawing

SUMMARY = "summary"
_BINS = np.linspace(0, 1, 41)
_LISTED = 10  # sequences in a table
_DRAWN, _MIN_CHUNKS, _WINDOWS = 8, 5, 200  # sequences along their length, their chunks at least, windows at most
_KINDS = {SCORED: "with an open frame", NO_OPEN_FRAME: "without one"}
_MEANINGS = {
    SCORED: "has an open frame",
    NO_OPEN_FRAME: "has no open frame; scored by its longest open reading frame or its DNA, less certain",
    AMBIGUOUS: "no score: too many unknown bases",
    TOO_SHORT: "no score: no part of it is long enough",
}
_SHOWN = ["sequence", "file", "length", "call", "probability", "regions", "viral_bases", "chunks", "note"]
_COLUMNS = ("Sequence", "File", "bp", "Call", "Probability", "Regions", "Viral bp", "Chunks", "Note")
_REGION_COLUMNS = ("Region", "File", "Start", "End", "bp", "Probability")
_ALL = 100_000  # sequences in the table that can be sorted and filtered
CALLS = (VIRAL, WITH_REGIONS, NO_VIRUS, "")
NO_SCORE = "no score"


@dataclass(frozen=True)
class About:
    """Facts about the model for the summary, besides its parameters."""

    facts: Mapping[str, str] = field(default_factory=dict)  # name, version, who promoted it
    caveats: tuple[str, ...] = ()  # such as a promotion against the gate
    chunk_size: int = 0  # bp of the chunks that it was trained on; 0 if they are the prediction's own


@dataclass(frozen=True)
class _Seen:
    """The contents of the tables."""

    spread: dict[str, np.ndarray]  # chunks by bin of probability, for each answered status
    viral: dict[str, int]  # chunks called viral, for each answered status
    calls: Counter[str]  # sequences by call
    short: int  # sequences with a note
    listed: pd.DataFrame  # the _ALL most viral ones
    drawn: pd.DataFrame  # the longest ones, those with regions first
    regions: pd.DataFrame


def write_summary(out: Path, counts: Mapping[str, Any], parameters: Mapping[str, Any], about: About) -> None:
    """Write summary.html, summary.md and their figures into the directory of the finished tables, `out`.

    Args:
        out: directory that holds the tables.
        counts: `in` and `out` of the manifest.
        parameters: those of the manifest.
        about: the model.
    """
    seen = _read(out)
    size = about.chunk_size or parameters["chunk_size"]
    page = Page(
        kind="virnuc prediction",
        title=f"{number_of(counts['in']['sequences'], 'sequence')}, {counts['in']['bases']:,} bp",
        outcome=f"{seen.calls[VIRAL]:,} virus",
        answer=f"{answer(seen.calls)}.",
        caveats=(*about.caveats, *short_caveat(seen.short, counts["in"]["sequences"], size)),
        sections=(_counts(counts, seen), _regions(seen), _sequences(seen), _model(parameters, about)),
        drawings=_drawings(out, seen, parameters["threshold"]),
        figures_after="counts",
    )
    write_page(page, out, SUMMARY)


def answer(calls: Mapping[str, int]) -> str:
    """Return the numbers of sequences by call, in words."""
    said = f"Virus: {number_of(calls[VIRAL], 'sequence')}. With viral regions: {calls[WITH_REGIONS]:,}. "
    return f"{said}No virus: {calls[NO_VIRUS]:,}. Without a score: {calls['']:,}"


def number_of(count: int, noun: str) -> str:
    """Return a number and its noun, which takes an s in the plural."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def short_caveat(short: int, sequences: int, chunk_size: int) -> list[str]:
    """Return a warning if there are sequences shorter than the chunks that the model was trained on."""
    if not short:
        return []
    are = "is" if short == 1 else "are"
    return [
        f"{short:,} of {number_of(sequences, 'sequence')} {are} shorter than the {chunk_size} bp chunks that the model "
        "was trained on (see the column note). Their probabilities cannot be trusted."
    ]


def _read(out: Path) -> _Seen:
    spread = {status: np.zeros(len(_BINS) - 1, dtype=np.int64) for status in ANSWERED}
    viral, calls, short = dict.fromkeys(ANSWERED, 0), Counter[str](dict.fromkeys(CALLS, 0)), 0
    for batch in pq.ParquetFile(out / "calls.parquet").iter_batches(columns=["status", "probability", "Prediction"]):
        table = batch.to_pandas()
        for status in ANSWERED:
            own = table[table["status"] == status]
            spread[status] += np.histogram(own["probability"], _BINS)[0]
            viral[status] += int((own["Prediction"] == VIRAL).sum())
    listed = drawn = pd.DataFrame()
    for batch in pq.ParquetFile(out / "sequences.parquet").iter_batches(columns=["record", *_SHOWN]):
        table = batch.to_pandas()
        calls.update(table["call"])
        short += int((table["note"] != "").sum())
        listed = (
            pd.concat([listed, table]).sort_values(_ORDER, ascending=_ASCENDING, kind="stable", key=_rank).head(_ALL)
        )
        long = table[table["chunks"] >= _MIN_CHUNKS]
        drawn = pd.concat([drawn, long]).sort_values(["viral_bases", "length"], ascending=False).head(_DRAWN)
    return _Seen(spread, viral, calls, short, listed, drawn, read_regions(out))


_ORDER, _ASCENDING = ["call", "note", "probability", "length"], [True, True, False, False]


def _rank(column: pd.Series) -> pd.Series:
    """Return calls as their place in CALLS, other columns as they are."""
    return column.map({call: place for place, call in enumerate(CALLS)}) if column.name == "call" else column


def _counts(counts: Mapping[str, Any], seen: _Seen) -> Section:
    read, written = counts["in"], counts["out"]
    total = sum(written[status] for status in STATUSES)
    text = (
        f"In: {number_of(read['sequences'], 'sequence')} in {number_of(read['chunks'], 'chunk')}. "
        f"Out: {number_of(written['sequences'], 'sequence')} in {number_of(written['chunks'], 'chunk')}.",
    )
    called = [(name or NO_SCORE, f"{seen.calls[name]:,}") for name in CALLS]
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


def _regions(seen: _Seen) -> Section:
    if seen.regions.empty:
        return Section("regions", "Viral regions", ("No viral regions were found.",))
    longest = seen.regions.nlargest(_LISTED, "length")
    rows = tuple(
        (row.region, row.file, f"{row.start:,}", f"{row.end:,}", f"{row.length:,}", number(row.probability))
        for row in longest.itertuples()
    )
    text = f"{len(seen.regions):,} regions, {seen.regions['length'].sum():,} bp in all; positions are counted from 1. "
    text += "All are in regions.tsv and, counted from 0, in regions.bed; their DNA is in viral.fna.gz."
    return Section("regions", "Viral regions", (text,), (Table("Longest", _REGION_COLUMNS, rows),))


def _sequences(seen: _Seen) -> Section:
    text = "A sequence's probability comes from the mean log-odds of its chunks. All sequences are in sequences.tsv."
    listed = seen.listed[_SHOWN].assign(call=seen.listed["call"].replace("", NO_SCORE))
    first = tuple(
        (
            *(row.sequence, row.file, f"{row.length:,}", row.call),
            number(None if np.isnan(row.probability) else row.probability),
            *(f"{row.regions:,}", f"{row.viral_bases:,}", f"{row.chunks:,}", row.note),
        )
        for row in listed.head(_LISTED).itertuples()
    )
    rows = listed.round({"probability": 4}).astype(object).where(listed.notna(), None).to_numpy().tolist()
    table = Table("Most viral", _COLUMNS, first)
    return Section("sequences", "Sequences", (text,), (table,), everything=AllRows(_COLUMNS, rows))


def _model(parameters: Mapping[str, Any], about: About) -> Section:
    rows = [*about.facts.items(), ("Digest", parameters["model"][:12])]
    rows += [("Chunk size", f"{parameters['chunk_size']} bp"), ("Threshold", f"{parameters['threshold']:g}")]
    rule = parameters["regions"]
    said = f"threshold {rule['threshold']:g}, evidence {rule['evidence']:g}, at least {rule['length']:,} bp"
    rows.append(("Viral regions", said))
    return Section("model", "Model", tables=(Table("", ("", "Value"), tuple(rows)),))


def _drawings(out: Path, seen: _Seen, threshold: float) -> dict[str, Drawing]:
    from virnuc.prediction.plots import histogram, regions  # take two seconds to import, and workers draw nothing

    spread = {_KINDS[status]: heights for status, heights in seen.spread.items()}
    viral = {_KINDS[status]: count for status, count in seen.viral.items()}
    drawings = {"histogram": histogram(spread, viral, _BINS, threshold)}
    if len(seen.drawn):
        drawings["regions"] = regions(seen.drawn, window_means(out, seen.drawn), seen.regions, threshold)
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
