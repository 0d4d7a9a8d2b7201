"""The files that a user reads, from scored parts: one pass, with one part and the sequence that it cuts in memory."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.prediction.calls import NON_VIRAL, VIRAL, call_sequences
from virnuc.prediction.chunks import SCORED
from virnuc.prediction.columns import (
    CALLS,
    FRAMES_TXT,
    HIGHEST_CSV,
    REGIONS,
    SEQUENCES,
    explanation,
)
from virnuc.prediction.regions import WITH_REGIONS, RegionRule, call_by_regions, find_regions
from virnuc.sequences.translation import FRAME_NAMES
from virnuc.storage.files import atomic_path, write_text

LETTERS = "letters"  # a part's column of the chunks' DNA
# What a part holds: the calls, the viral score of each frame, and the DNA, so that nothing is read twice.
PART = pa.schema([*CALLS, *((name, pa.float64()) for name in FRAME_NAMES), (LETTERS, pa.string())])
REGIONS_BED, VIRAL_FASTA = "regions.bed", "viral.fna.gz"
TABLES = (
    *("calls.tsv", "calls.parquet", "sequences.tsv", "sequences.parquet", "regions.tsv"),
    *(REGIONS_BED, VIRAL_FASTA, FRAMES_TXT, HIGHEST_CSV),
)
_LINE = 80  # letters of a line of FASTA
_NAMES = ("Sequence_ID", "Modified_ID", "sequence", "file", "region")  # columns whose texts come from elsewhere
_FORMULAS = ("=", "+", "-", "@")


def write_tables(out: Path, parts: list[Path], threshold: float, rule: RegionRule, chunk_size: int) -> dict[str, int]:
    """Join scored parts into the files of TABLES; return their numbers of rows, or of sequences in FASTA.

    Args:
        out: directory for them.
        parts: scored parts, with the columns of PART, in order.
        threshold: lowest viral probability of a virus.
        rule: what counts as a viral region.
        chunk_size: bp of the chunks that the model was trained on.
    """
    with ExitStack() as stack:
        texts = {name: _Text(out / name, stack) for name in TABLES if name.endswith((".tsv", ".bed", ".txt", ".csv"))}
        parquet = {name: _parquet(out / f"{name}.parquet", known, stack) for name, known in _STORED.items()}
        fasta = _fasta(out / VIRAL_FASTA, stack)
        written = 0
        for whole in _whole_sequences(_written(parts, texts, parquet["calls"])):
            regions = find_regions(whole, rule)
            named = whole.groupby("record").agg(
                sequence=("sequence", "first"), file=("file", "first"), length=("end", "max")
            )
            called = call_sequences(whole, threshold).join(named, on="record")
            sequences = call_by_regions(called, regions, chunk_size)
            _write_table(texts["sequences.tsv"], parquet["sequences"], sequences, SEQUENCES)
            texts["regions.tsv"].write(regions[REGIONS.names])
            texts[REGIONS_BED].write(_bed(regions), header=False)
            written += _write_viral(fasta, whole, sequences, regions)
        rows = {name: text.rows for name, text in texts.items()}
    write_text(out / "columns.tsv", explanation())
    rows |= {f"{name}.parquet": rows[f"{name}.tsv"] for name in parquet} | {VIRAL_FASTA: written}
    return {name: rows[name] for name in TABLES}


def read_regions(out: Path) -> pd.DataFrame:
    """Return the rows of regions.tsv, with the types of its columns even if there are no rows."""
    kinds = {column.name: str if column.type == pa.string() else column.type.to_pandas_dtype() for column in REGIONS}
    return pd.read_csv(out / "regions.tsv", sep="\t", dtype=kinds, keep_default_na=False)


_STORED = {"calls": CALLS, "sequences": SEQUENCES}  # as Parquet too


def _whole_sequences(parts: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Yield the rows of all parts as tables that end where a sequence ends; records count up."""
    held: list[pd.DataFrame] = []  # of the last sequence, which may go on in the next part
    for part in parts:
        last = part["record"].iloc[-1]
        done = part[part["record"] != last]
        if len(done) or (held and held[0]["record"].iloc[0] != last):
            yield pd.concat([*held, done], ignore_index=True)
            held = []
        held.append(part[part["record"] == last])
    if held:
        yield pd.concat(held, ignore_index=True)


def _written(parts: list[Path], texts: dict[str, _Text], calls: pq.ParquetWriter) -> Iterator[pd.DataFrame]:
    """Yield the parts, each after it was written to the tables of chunks and of frames."""
    for path in parts:
        part = pq.read_table(path).to_pandas()
        _write_table(texts["calls.tsv"], calls, part, CALLS)
        opened = part[part["status"] == SCORED]
        texts[FRAMES_TXT].write(_frames(opened))
        viral = opened[list(FRAME_NAMES)]
        virus = np.where(viral.max(axis=1) >= 1 - viral.min(axis=1), "True", "False")
        texts[HIGHEST_CSV].write(pd.DataFrame({"Modified_ID": opened["Sequence_ID"], "Is_Virus": virus}))
        yield part


def _frames(opened: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each scored frame, in the order of chunks, then F1 to R3."""
    viral = opened[list(FRAME_NAMES)].to_numpy()  # [chunks, 6]
    chunk, frame = np.nonzero(~np.isnan(viral))
    score = viral[chunk, frame]
    names = opened["Sequence_ID"].to_numpy()[chunk] + np.array(FRAME_NAMES, dtype=object)[frame]
    called = np.where(score > 0.5, VIRAL, NON_VIRAL)
    return pd.DataFrame({"Sequence_ID": names, "Prediction": called, "score1": 1 - score, "score2": score})


def _bed(regions: pd.DataFrame) -> pd.DataFrame:
    """Return BED6: starts from 0, ends excluded, the probability from 0 to 1000."""
    score = (regions["probability"] * 1000).round().astype(int)
    return pd.DataFrame(
        {
            "chrom": regions["sequence"],
            "start": regions["start"] - 1,
            "end": regions["end"],
            "name": regions["region"],
            "score": score,
            "strand": ".",
        }
    )


def _write_viral(fasta: BinaryIO, whole: pd.DataFrame, sequences: pd.DataFrame, regions: pd.DataFrame) -> int:
    """Write sequences called virus, and the regions of those that contain some; return how many."""
    viral = sequences[sequences["call"].isin((VIRAL, WITH_REGIONS))]
    inside = defaultdict(list)
    for region in regions.itertuples():
        inside[region.record].append(region)
    count = 0
    joined = _joined(whole[whole["record"].isin(viral["record"])])
    for sequence, letters in zip(viral.itertuples(), joined, strict=True):
        entries = [(sequence.sequence, letters)]
        if sequence.call == WITH_REGIONS:
            entries = [(own.region, letters[own.start - 1 : own.end]) for own in inside[sequence.record]]
        for name, dna in entries:
            lines = [dna[place : place + _LINE] for place in range(0, len(dna), _LINE)]
            fasta.write("\n".join([f">{name}", *lines, ""]).encode())
        count += len(entries)
    return count


def _joined(chunks: pd.DataFrame) -> Iterator[str]:
    """Yield each sequence, in the order of records, from its chunks, which may overlap and leave no gap."""
    record, start = chunks["record"].to_numpy(), chunks["start"].to_numpy()
    last = np.append(record[1:] != record[:-1], len(record) > 0)[: len(record)]
    until = np.where(last, chunks["end"], np.roll(start, -1))
    pieces = [letters[:length] for letters, length in zip(chunks[LETTERS], (until - start).tolist(), strict=True)]
    begin = 0
    for end in (np.flatnonzero(last) + 1).tolist():
        yield "".join(pieces[begin:end])
        begin = end


def _write_table(text: _Text, parquet: pq.ParquetWriter, table: pd.DataFrame, known: pa.Schema) -> None:
    text.write(table[known.names])
    if len(table):
        parquet.write_table(pa.Table.from_pandas(table[known.names], schema=known, preserve_index=False))


def _parquet(path: Path, known: pa.Schema, stack: ExitStack) -> pq.ParquetWriter:
    return stack.enter_context(pq.ParquetWriter(stack.enter_context(atomic_path(path)), known, compression="zstd"))


def _fasta(path: Path, stack: ExitStack) -> BinaryIO:
    raw = stack.enter_context(stack.enter_context(atomic_path(path)).open("wb"))
    zipped = gzip.GzipFile("", "wb", 4, raw, mtime=0)  # neither name nor time: the same content gives the same bytes
    return cast(BinaryIO, stack.enter_context(zipped))


def _as_text(names: pd.Series) -> pd.Series:
    """Return names with an apostrophe before those that a spreadsheet would take for formulas."""
    return names.where(~names.str.startswith(_FORMULAS), "'" + names)


class _Text:
    """A table as tab-separated text: rows are appended to a temporary file, which is put in place at the end."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        temporary = stack.enter_context(atomic_path(path))
        self._stream: TextIO = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        self._headed, self.rows = False, 0

    def write(self, table: pd.DataFrame, header: bool = True) -> None:
        """Append rows, below the columns' names if they are the first."""
        texts = {name: _as_text(table[name]) for name in _NAMES if name in table}
        table.assign(**texts).to_csv(
            self._stream,
            sep="\t",
            header=header and not self._headed,
            index=False,
            lineterminator="\n",
            float_format="%.9g",
        )
        self._headed = True
        self.rows += len(table)
