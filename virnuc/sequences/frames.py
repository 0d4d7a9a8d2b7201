"""Frames: the stop-free reading frames of a genome's chunks, and the Parquet shards that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.errors import DataError
from virnuc.manifest import read_manifest
from virnuc.sequences.chunking import chunk_starts
from virnuc.sequences.evidence import CodingEvidence
from virnuc.sequences.reading import Genome
from virnuc.sequences.translation import FRAME_NAMES, Translation

SHARD_ROWS = 10_000
GENOMES = "genomes.parquet"
FRAME_SCHEMA = pa.schema(
    [
        ("frame_id", pa.string()),
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
_ACGT = frozenset("ACGT")


@dataclass
class GenomeCounts:
    """What became of one genome's chunks: `chunks` is the sum of `covered` and the three kinds dropped."""

    genome: str
    organism: str
    lineage: str
    group: str
    source: str  # name of the file
    length: int  # bp
    chunks: int
    ambiguous_bases: int = 0  # chunks dropped for a base other than ACGT
    no_open_frame: int = 0  # chunks in which every frame has a stop codon
    no_cds_evidence: int = 0  # chunks whose open frames are in no annotated CDS
    covered: int = 0  # chunks with at least one frame
    open_frames: int = 0
    frames: int = 0  # open frames that were kept, before --balance


def frame_shards(directory: Path) -> list[Path]:
    """Return the frame shards of a finished directory, in the order of its manifest."""
    return [directory / shard.path for shard in read_manifest(directory, "frames").shards if shard.path != GENOMES]


def read_frames(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a shard of frames.

    Raises:
        DataError: the file is damaged or has other columns.
    """
    try:
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); run prepare again") from error
    wanted = FRAME_SCHEMA if columns is None else pa.schema([FRAME_SCHEMA.field(name) for name in columns])
    if not table.schema.equals(wanted):
        raise DataError(f"{path}: its columns are not those of frames; run prepare again")
    return table


def frames_of(genome: Genome, counts: GenomeCounts, chunk_size: int, evidence: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one genome's frames in the order of chunks, then F1 to R3, and count into `counts`."""
    starts = chunk_starts(len(genome.sequence), chunk_size)
    size = min(len(genome.sequence), chunk_size)
    translation = Translation(genome.sequence)
    clean = np.array([_ACGT.issuperset(genome.sequence[start : start + size]) for start in starts.tolist()], dtype=bool)
    opened = translation.is_open(starts, size) & clean[:, None]
    places = np.argwhere(opened)
    found = [translation.frame(int(starts[chunk]), size, index) for chunk, index in places.tolist()]
    keep = np.ones(len(found), dtype=bool)
    if evidence == "cds":
        keep = CodingEvidence(genome.translations).supports([frame.protein for frame in found])
    covered = np.unique(places[keep, 0])
    counts.ambiguous_bases = int((~clean).sum())
    counts.no_open_frame = int((clean & ~opened.any(axis=1)).sum())
    counts.covered = len(covered)
    counts.no_cds_evidence = counts.chunks - counts.ambiguous_bases - counts.no_open_frame - counts.covered
    counts.open_frames, counts.frames = len(found), int(keep.sum())
    for number in np.flatnonzero(keep).tolist():
        chunk, index = places[number].tolist()
        yield {
            "frame_id": f"{genome.accession}_chunk_{chunk + 1}{FRAME_NAMES[index]}",
            "genome": genome.accession,
            "organism": genome.organism,
            "lineage": genome.lineage,
            "group": counts.group,
            "label": int(counts.group == "viral"),
            "chunk_index": chunk + 1,
            "chunk_start": int(starts[chunk]),
            "strand": found[number].strand,
            "offset": found[number].offset,
            "nucleotide": found[number].nucleotide,
            "protein": found[number].protein,
        }
