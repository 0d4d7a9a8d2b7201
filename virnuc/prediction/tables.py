"""The tables that a user reads, from scored parts: one pass, with one part in memory at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.prediction.calls import VIRAL, call_sequences, combine, partial_sums
from virnuc.prediction.chunks import STATUSES
from virnuc.storage.files import atomic_path

CALLS = pa.schema(
    [
        ("Sequence_ID", pa.string()),  # <sequence>_chunk_<number>
        ("Prediction", pa.string()),  # virus, others, or empty where there is no score
        ("score1", pa.float64()),  # highest non-viral score of the chunk's frames
        ("score2", pa.float64()),  # highest viral score
        ("probability", pa.float64()),  # 0.5 + (score2 - score1) / 2
        ("status", pa.string()),  # scored, no_open_frame, ambiguous or too_short
        ("scored_by", pa.string()),  # frames, longest_orf, companion or mean; empty where there is no score
        ("frame", pa.string()),  # F1 to R3, the one with the higher of the two scores; empty if none was scored
        ("frames", pa.int64()),  # number of frames scored
        ("record", pa.int64()),  # of the sequence, from 1, over all files
        ("sequence", pa.string()),
        ("file", pa.string()),
        ("chunk", pa.int64()),  # from 1
        ("start", pa.int64()),  # bp from 0, on the forward strand
        ("end", pa.int64()),
    ]
)
SEQUENCES = pa.schema(
    [
        ("record", pa.int64()),
        ("sequence", pa.string()),
        ("file", pa.string()),
        ("length", pa.int64()),  # bp
        ("probability", pa.float64()),  # of the mean log-odds over the chunks that have a score
        ("label", pa.string()),  # virus, others or empty
        ("status", pa.string()),
        ("chunks", pa.int64()),
        *((status, pa.int64()) for status in STATUSES),  # chunks of each status
        ("strongest_chunk", pa.int64()),
        ("frame", pa.string()),  # of the strongest chunk
    ]
)
TABLES = ("calls.tsv", "calls.parquet", "calls_highestscore.csv", "sequences.tsv", "sequences.parquet")


def write_tables(out: Path, parts: list[Path], threshold: float) -> dict[str, int]:
    """Join scored parts into the five tables of `out`; return their numbers of rows."""
    rows = dict.fromkeys(TABLES, 0)
    with ExitStack() as stack:
        calls = _Table(out / "calls", CALLS, stack)
        sequences = _Table(out / "sequences", SEQUENCES, stack)
        short = _Text(out / "calls_highestscore.csv", ",", ["Modified_ID", "Is_Virus"], stack)
        for table in sequence_rows(_written(parts, calls, short), threshold):
            sequences.write(table)
        for name, count in (("calls", calls.rows), ("sequences", sequences.rows)):
            rows[f"{name}.tsv"] = rows[f"{name}.parquet"] = count
        rows["calls_highestscore.csv"] = calls.rows
    return rows


def sequence_rows(parts: Iterable[pd.DataFrame], threshold: float) -> Iterator[pd.DataFrame]:
    """Yield the rows of the sequences table; the chunks of a sequence may lie in several parts."""
    sums, names = pd.DataFrame(), pd.DataFrame()
    for part in parts:
        sums = pd.concat([sums, partial_sums(part)])
        names = pd.concat(
            [
                names,
                part.groupby("record").agg(
                    sequence=("sequence", "first"), file=("file", "first"), length=("end", "max")
                ),
            ]
        )
        sums = combine(sums)
        names = names.groupby(level=0).agg({"sequence": "first", "file": "first", "length": "max"})
        unfinished = sums["record"] == sums["record"].max()
        yield call_sequences(sums[~unfinished], threshold).join(names, on="record")
        sums, names = sums[unfinished], names.tail(1)
    if len(sums):
        yield call_sequences(sums, threshold).join(names, on="record")


def _written(parts: list[Path], calls: _Table, short: _Text) -> Iterator[pd.DataFrame]:
    """Yield the parts, each after it was written to the tables of chunks."""
    for path in parts:
        part = pq.read_table(path).to_pandas()
        calls.write(part)
        called = part["Prediction"].map({VIRAL: "True", "": ""}).fillna("False")
        short.write(pd.DataFrame({"Modified_ID": part["Sequence_ID"], "Is_Virus": called}))
        yield part


class _Text:
    """A table as text: rows are appended to a temporary file, which is put in place at the end."""

    def __init__(self, path: Path, separator: str, columns: list[str], stack: ExitStack) -> None:
        temporary = stack.enter_context(atomic_path(path))
        self._stream = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        self._separator, self._columns = separator, columns
        csv.writer(self._stream, delimiter=separator, lineterminator="\n").writerow(columns)

    def write(self, table: pd.DataFrame) -> None:
        table.to_csv(
            self._stream,
            sep=self._separator,
            columns=self._columns,
            header=False,
            index=False,
            lineterminator="\n",
            float_format="%.9g",
        )


class _Table:
    """A table as TSV and as Parquet."""

    def __init__(self, stem: Path, schema: pa.Schema, stack: ExitStack) -> None:
        self.rows, self._schema = 0, schema
        self._text = _Text(stem.with_suffix(".tsv"), "\t", schema.names, stack)
        temporary = stack.enter_context(atomic_path(stem.with_suffix(".parquet")))
        self._parquet = stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))

    def write(self, table: pd.DataFrame) -> None:
        if len(table):
            self._text.write(table)
            self._parquet.write_table(pa.Table.from_pandas(table, schema=self._schema, preserve_index=False))
            self.rows += len(table)
