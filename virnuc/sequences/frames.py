"""Frames: the stop-free reading frames of a record's chunks, and the Parquet shards that hold them.

All chunks, with and without frames, are under `chunks/` with a manifest of their own, so that the digest of the frames
covers the frames alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc.errors import DataError
from virnuc.sequences.genomes import GENOME_TABLE
from virnuc.storage.manifest import read_manifest
from virnuc.storage.parquet import read_table

SHARD_ROWS = 10_000
GENOMES = "genomes.parquet"
CHUNKS = "chunks"  # directory of the chunks, below that of the frames
COVERED = "covered"  # a chunk with a frame
NO_OPEN_FRAME, NO_CDS_EVIDENCE = "no_open_frame", "no_cds_evidence"  # why a chunk has no frame
FRAME_SCHEMA = pa.schema(
    [
        ("frame_id", pa.string()),
        ("record", pa.string()),
        ("genome", pa.string()),
        ("organism", pa.string()),
        ("lineage", pa.string()),
        ("group", pa.string()),
        ("label", pa.int8()),
        ("chunk_index", pa.int32()),  # from 1
        ("chunk_start", pa.int64()),  # from 0, on the forward strand
        ("strand", pa.string()),
        ("offset", pa.int8()),
        ("nucleotide", pa.string()),
        ("protein", pa.string()),
    ]
)
CHUNK_SCHEMA = pa.schema(
    [
        ("chunk_id", pa.string()),  # ACCESSION_chunk_K
        *(FRAME_SCHEMA.field(name) for name in ("record", "genome", "organism", "lineage", "group", "label")),
        *(FRAME_SCHEMA.field(name) for name in ("chunk_index", "chunk_start")),
        ("reason", pa.string()),  # covered, no_open_frame or no_cds_evidence
        ("nucleotide", pa.string()),  # the whole chunk, forward strand
    ]
)


RECORD_SCHEMA = pa.schema(
    [
        ("record", pa.string()),
        ("genome", pa.string()),
        ("genome_found_in", pa.string()),  # table, assembly, biosample, wgs, organism or record
        ("organism", pa.string()),
        ("lineage", pa.string()),
        ("deposited", pa.string()),  # ISO date, empty if unknown
        ("group", pa.string()),
        ("source", pa.string()),  # name of the file
        ("length", pa.int64()),  # bp
        ("chunks", pa.int64()),  # the sum of the next four
        ("ambiguous_bases", pa.int64()),  # chunks dropped for a base other than ACGT
        (NO_OPEN_FRAME, pa.int64()),  # chunks in which every frame has a stop codon
        (NO_CDS_EVIDENCE, pa.int64()),  # chunks whose open frames are in no annotated CDS
        (COVERED, pa.int64()),  # chunks with at least one frame
        ("open_frames", pa.int64()),
        ("frames", pa.int64()),  # open frames that were kept, before identical ones are dropped and --balance
    ]
)
COUNTS = RECORD_SCHEMA.names[10:]  # what is counted when records are cut


def frame_shards(directory: Path) -> list[Path]:
    """Return the frame shards of a finished directory, in the order of its manifest."""
    shards = read_manifest(directory, "frames").shards
    return [directory / shard.path for shard in shards if shard.path not in (GENOMES, GENOME_TABLE)]


def chunk_shards(directory: Path) -> list[Path]:
    """Return the shards of the chunks of a finished directory of frames.

    Raises:
        DataError: there are none, or they are not those that were written with the frames.
    """
    manifest = read_manifest(directory / CHUNKS, "chunks")
    if manifest.digest != read_manifest(directory, "frames").details.get("chunks_digest"):
        raise DataError(f"{directory / CHUNKS}: not written together with the frames; run prepare again")
    return [directory / CHUNKS / shard.path for shard in manifest.shards]


def read_frames(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a shard of frames.

    Raises:
        DataError: the file is damaged or has other columns.
    """
    return _read(path, FRAME_SCHEMA, "frames", columns)


def read_chunks(path: Path) -> pa.Table:
    """Read a shard of chunks.

    Raises:
        DataError: the file is damaged or has other columns.
    """
    return _read(path, CHUNK_SCHEMA, "chunks", None)


def between_chunks(chunks: pa.Table) -> pa.Table:
    """Return the chunks that begin halfway between two neighbours: number 3.5 is between 3 and 4.

    Chunks are adjacent or overlap, so two neighbours hold all the DNA between their starts.

    Returns:
        `chunk_id`, `label` and `nucleotide`, in the order of the first of each two.
    """
    first = _before_their_neighbours(chunks["record"], chunks["chunk_index"])
    ids, starts, sequences = (chunks[name].to_pylist() for name in ("chunk_id", "chunk_start", "nucleotide"))
    found = []
    for at in first.tolist():
        step = starts[at + 1] - starts[at]
        end = len(sequences[at]) - step  # in the next chunk, of what this one holds too
        found.append(sequences[at][step // 2 :] + sequences[at + 1][end : end + step // 2])
    named = pa.array([f"{ids[at]}.5" for at in first.tolist()], pa.string())
    labels = chunks["label"].take(pa.array(first))
    return pa.table({"chunk_id": named, "label": labels, "nucleotide": pa.array(found, pa.string())})


def count_between_chunks(path: Path) -> int:
    """Return how many rows `between_chunks` makes of a shard of chunks."""
    return len(_before_their_neighbours(*_read(path, CHUNK_SCHEMA, "chunks", ["record", "chunk_index"]).columns))


def _before_their_neighbours(record: pa.ChunkedArray, index: pa.ChunkedArray) -> np.ndarray:
    """Return the positions of the chunks that the next one of their record follows, int64."""
    same = pc.equal(record[1:], record[:-1]).to_numpy(zero_copy_only=False)
    return np.flatnonzero(same & (np.diff(index.to_numpy()) == 1))


def _read(path: Path, schema: pa.Schema, what: str, columns: list[str] | None) -> pa.Table:
    table = read_table(path, "run prepare again", columns)
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    if not table.schema.equals(wanted):
        raise DataError(f"{path}: its columns are not those of {what}; run prepare again")
    return table
