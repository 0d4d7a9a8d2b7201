"""Records to frames: many records at once are chunked, translated and looked up, and returned as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc.sequences.chunking import chunk_many
from virnuc.sequences.evidence import occur_in_annotation
from virnuc.sequences.frames import (
    CHUNK_SCHEMA,
    COVERED,
    FRAME_SCHEMA,
    NO_CDS_EVIDENCE,
    NO_OPEN_FRAME,
    SHARD_ROWS,
    RecordCounts,
)
from virnuc.sequences.reading import Record
from virnuc.sequences.translation import FRAME_NAMES, Frames, Translation, gather, other_than_acgt

_PIECE = 16_000_000  # bases that are worked on at once
_OF_RECORD = ("record", "genome", "organism", "lineage", "group")


@dataclass(frozen=True)
class _Chunks:
    """The chunks of several records, whose sequences are joined; arrays are int64 `[chunks]` but for `bases`."""

    counts: Sequence[RecordCounts]  # of the records
    bases: np.ndarray  # ASCII uint8, of all records
    record: np.ndarray  # number of the record
    number: np.ndarray  # of the chunk in its record, from 0
    start: np.ndarray  # in its record
    begin: np.ndarray  # in `bases`
    size: np.ndarray  # bp

    def clean(self) -> np.ndarray:
        """Return, as bool `[chunks]`, which chunks have no base other than ACGT."""
        other = other_than_acgt(self.bases)
        clean: np.ndarray = np.searchsorted(other, self.begin) == np.searchsorted(other, self.begin + self.size)
        return clean

    def count(self, name: str, chunks: np.ndarray) -> None:
        """Add to the records' counts how many of the chunks, numbers or a mask, are theirs."""
        for counts, value in zip(
            self.counts, np.bincount(self.record[chunks], minlength=len(self.counts)), strict=True
        ):
            setattr(counts, name, getattr(counts, name) + int(value))

    @cached_property
    def _of_record(self) -> dict[str, pa.Array]:
        """What frames and chunks take over from their record."""
        return {name: pa.array([getattr(counts, name) for counts in self.counts], pa.string()) for name in _OF_RECORD}

    def columns(self, at: np.ndarray, marks: pa.Array) -> dict[str, pa.Array]:
        """Return the columns that frames and chunks have in common, for the chunks `at`; their names end in `marks`."""
        of = pa.array(self.record[at])
        columns = {name: values.take(of) for name, values in self._of_record.items()}
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
    records: Sequence[Record], counts: Sequence[RecordCounts], chunk_size: int, evidence: str
) -> Iterator[tuple[Iterator[pa.Table], Iterator[pa.Table]]]:
    """Yield frames, by record, chunk, then F1 to R3, and all chunks, for one piece after the other; fill in the counts.

    A piece has `_PIECE` bases, so that a chromosome needs no more memory than its letters and those of a piece.
    """
    translations = [record.translations for record in records]
    for chunks in _pieces(records, counts, chunk_size):
        yield _cut(chunks, translations, evidence)


def _cut(
    chunks: _Chunks, translations: Sequence[Sequence[str]], evidence: str
) -> tuple[Iterator[pa.Table], Iterator[pa.Table]]:
    translation, clean = Translation(chunks.bases.tobytes().decode()), chunks.clean()
    opened = translation.is_open(chunks.begin, chunks.size) & clean[:, None]
    at, index = np.nonzero(opened)
    chunks.count("open_frames", at)
    frames = translation.frames(chunks.begin[at], chunks.size[at], index)
    if evidence == "cds":
        kept = occur_in_annotation(translations, chunks.record[at], frames.proteins(), frames.codons)
        at, index, frames = at[kept], index[kept], frames[kept]
    covered = np.isin(np.arange(len(clean)), at)
    stopped = clean & ~opened.any(axis=1)
    unsupported = clean & ~stopped & ~covered
    reasons = {"ambiguous_bases": ~clean, NO_OPEN_FRAME: stopped, NO_CDS_EVIDENCE: unsupported, COVERED: covered}
    reason = np.select([covered, stopped], [0, 1], 2)
    for name, which in (reasons | {"frames": at}).items():
        chunks.count(name, which)
    return _frame_tables(chunks, at, index, frames), _chunk_tables(chunks, np.flatnonzero(clean), reason)


def _pieces(records: Sequence[Record], counts: Sequence[RecordCounts], chunk_size: int) -> Iterator[_Chunks]:
    bases = np.frombuffer("".join(record.sequence for record in records).encode("ascii"), dtype=np.uint8)
    lengths = np.array([len(record.sequence) for record in records], dtype=np.int64)
    of, number, start = chunk_many(lengths, chunk_size)
    begin = (np.cumsum(lengths) - lengths)[of] + start
    size = np.minimum(lengths[of], chunk_size)
    step = max(1, _PIECE // chunk_size)
    for first in range(0, len(of), step):
        part = slice(first, first + step)
        low, high = begin[part][0], begin[part][-1] + size[part][-1]
        yield _Chunks(counts, bases[low:high], of[part], number[part], start[part], begin[part] - low, size[part])


def _frame_tables(chunks: _Chunks, at: np.ndarray, index: np.ndarray, frames: Frames) -> Iterator[pa.Table]:
    names = pa.array(FRAME_NAMES)
    for begin in range(0, len(at), SHARD_ROWS):
        part = slice(begin, begin + SHARD_ROWS)
        columns = chunks.columns(at[part], names.take(pa.array(index[part])))
        columns["strand"] = pa.array(("+", "-")).take(pa.array(index[part] // 3))
        columns["offset"] = pa.array(index[part] % 3, pa.int8())
        columns["nucleotide"] = _texts(frames[part].nucleotides(), 3 * frames[part].codons)
        columns["protein"] = _texts(frames[part].proteins(), frames[part].codons)
        yield pa.table([columns[name] for name in FRAME_SCHEMA.names], schema=FRAME_SCHEMA)


def _chunk_tables(chunks: _Chunks, at: np.ndarray, reason: np.ndarray) -> Iterator[pa.Table]:
    reasons = pa.array((COVERED, NO_OPEN_FRAME, NO_CDS_EVIDENCE))
    for begin in range(0, len(at), SHARD_ROWS):
        part = at[begin : begin + SHARD_ROWS]
        columns = chunks.columns(part, pa.array([""] * len(part)))
        columns["reason"] = reasons.take(pa.array(reason[part]))
        columns["nucleotide"] = _texts(gather(chunks.bases, chunks.begin[part], chunks.size[part]), chunks.size[part])
        yield pa.table([columns[name] for name in CHUNK_SCHEMA.names], schema=CHUNK_SCHEMA)


def _texts(letters: np.ndarray, lengths: np.ndarray) -> pa.Array:
    """Return the texts that `letters` contains end to end."""
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(ends), pa.py_buffer(letters))
