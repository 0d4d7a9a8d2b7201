"""Records to frames: many records at once are chunked, translated and looked up, and returned as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc.sequences.chunking import chunk_many
from virnuc.sequences.evidence import occur_in_annotation
from virnuc.sequences.frames import (
    CHUNK_SCHEMA,
    COUNTS,
    COVERED,
    FRAME_SCHEMA,
    NO_CDS_EVIDENCE,
    NO_OPEN_FRAME,
)
from virnuc.sequences.reading import Record
from virnuc.sequences.translation import FRAME_NAMES, Translation, cut_texts

_PIECE = 4_000_000  # bases that are worked on at once
_OF_RECORD = ("record", "genome", "organism", "lineage", "group")


@dataclass(frozen=True)
class _Chunks:
    """The chunks of several records, whose sequences are joined; arrays are int64 `[chunks]`."""

    records: pa.RecordBatch  # a row for each record, RECORD_SCHEMA up to the counts
    dna: str  # of all records, upper-case IUPAC
    record: np.ndarray  # number of the record
    number: np.ndarray  # of the chunk in its record, from 0
    start: np.ndarray  # in its record
    begin: np.ndarray  # in `dna`
    size: np.ndarray  # bp

    def count(self, chunks: np.ndarray) -> np.ndarray:
        """Return how many of the chunks, numbers or a mask, belong to each record."""
        return np.bincount(self.record[chunks], minlength=len(self.records))

    def columns(self, at: np.ndarray, marks: pa.Array | str) -> dict[str, pa.Array]:
        """Return the columns that frames and chunks have in common, for the chunks `at`; their names end in `marks`."""
        of = pa.array(self.record[at])
        columns = {name: self.records[name].take(of) for name in _OF_RECORD}
        index = pa.array(self.number[at] + 1, pa.int32())
        names = pc.binary_join_element_wise(columns["record"], "_chunk_", index.cast(pa.string()), marks, "")
        return {
            "frame_id": names,
            "chunk_id": names,
            **columns,
            "label": pc.equal(columns["group"], "viral").cast(pa.int8()),
            "chunk_index": index,
            "chunk_start": pa.array(self.start[at]),
        }


def cut_records(
    records: Sequence[Record], described: pa.RecordBatch, chunk_size: int, evidence: str
) -> Iterator[tuple[pa.Table, pa.Table, np.ndarray]]:
    """Yield the frames of one piece after the other, by record, chunk, then F1 to R3, its chunks, and its counts.

    A piece has `_PIECE` bases, so that a chromosome needs no more memory than its letters and those of a piece.

    Args:
        records: to be cut.
        described: a row for each record, RECORD_SCHEMA up to the counts.
        chunk_size: bp.
        evidence: `cds` or `open`.

    Returns:
        Tables with FRAME_SCHEMA and CHUNK_SCHEMA, and int64 `[COUNTS, records]`.
    """
    translations = [record.translations for record in records] if evidence == "cds" else None
    for chunks in _pieces(records, described, chunk_size):
        yield _cut(chunks, translations)


def _cut(chunks: _Chunks, translations: Sequence[Sequence[str]] | None) -> tuple[pa.Table, pa.Table, np.ndarray]:
    translation = Translation(chunks.dna)
    clean = translation.is_clean(chunks.begin, chunks.size)
    opened = translation.is_open(chunks.begin, chunks.size) & clean[:, None]
    at, index = np.nonzero(opened)
    proteins = translation.proteins(chunks.begin[at], chunks.size[at], index)
    kept = np.ones(len(at), dtype=bool)
    if translations is not None:
        kept = occur_in_annotation(translations, chunks.record[at], proteins)
    covered = np.isin(np.arange(len(clean)), at[kept])
    stopped = clean & ~opened.any(axis=1)
    counted = {
        "ambiguous_bases": ~clean,
        NO_OPEN_FRAME: stopped,
        NO_CDS_EVIDENCE: clean & ~stopped & ~covered,
        COVERED: covered,
        "open_frames": at,
        "frames": at[kept],
    }
    at, index, proteins = at[kept], index[kept], list(compress(proteins, kept.tolist()))
    columns = chunks.columns(at, pa.array(FRAME_NAMES).take(pa.array(index)))
    columns["strand"] = pa.array(("+", "-")).take(pa.array(index // 3))
    columns["offset"] = pa.array(index % 3, pa.int8())
    columns["nucleotide"] = pa.array(translation.nucleotides(chunks.begin[at], chunks.size[at], index), pa.string())
    columns["protein"] = pa.array(proteins, pa.string())
    return (
        _table(columns, FRAME_SCHEMA),
        _chunk_table(chunks, np.flatnonzero(clean), np.select([covered, stopped], [0, 1], 2)),
        np.stack([chunks.count(counted[name]) for name in COUNTS]),
    )


def _chunk_table(chunks: _Chunks, at: np.ndarray, reason: np.ndarray) -> pa.Table:
    columns = chunks.columns(at, "")
    columns["reason"] = pa.array((COVERED, NO_OPEN_FRAME, NO_CDS_EVIDENCE)).take(pa.array(reason[at]))
    columns["nucleotide"] = pa.array(cut_texts(chunks.dna, chunks.begin[at], chunks.size[at]), pa.string())
    return _table(columns, CHUNK_SCHEMA)


def _table(columns: Mapping[str, pa.Array], schema: pa.Schema) -> pa.Table:
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _pieces(records: Sequence[Record], described: pa.RecordBatch, chunk_size: int) -> Iterator[_Chunks]:
    dna = "".join(record.sequence for record in records)
    lengths = np.array([len(record.sequence) for record in records], dtype=np.int64)
    of, number, start = chunk_many(lengths, chunk_size)
    begin = (np.cumsum(lengths) - lengths)[of] + start
    size = np.minimum(lengths[of], chunk_size)
    step = max(1, _PIECE // chunk_size)
    for first in range(0, len(of), step):
        part = slice(first, first + step)
        low, high = begin[part][0], begin[part][-1] + size[part][-1]
        yield _Chunks(described, dna[low:high], of[part], number[part], start[part], begin[part] - low, size[part])
