"""The frames of one source file in shards, which stay below `.progress/` until the shards of all files are numbered.

Files are the units of restarting and of work shared by several processes, each of which takes files that no other has.
When all shards of a file are written, a note beside them records its counts; a file with a note is not read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.sequences.cutting import cut_records
from virnuc.sequences.frames import CHUNKS, SHARD_ROWS, RecordCounts
from virnuc.sequences.genomes import TableRow
from virnuc.sequences.reading import Record, read_records
from virnuc.sequences.sources import SourceFile
from virnuc.sequences.taxonomy import Taxonomy
from virnuc.settings import PrepareSettings
from virnuc.storage.directory import PROGRESS, OutputDirectory
from virnuc.storage.files import atomic_path, write_text
from virnuc.storage.processes import Send

FRAMES = "frames"
_BATCH = 2_000_000  # bases of the records that are cut at once


def note_of(output: OutputDirectory, source: SourceFile) -> Path:
    """Return the path of a file's note."""
    return output.progress / f"{source.path.name}.json"


def staged(output: OutputDirectory, source: SourceFile, kind: str, number: int) -> Path:
    """Return the path of a file's shard number `number` of frames or chunks."""
    return output.progress / source.path.name / f"{kind}-{number:05d}.parquet"


def stage_files(
    output: OutputDirectory,
    sources: Sequence[SourceFile],
    genomes: Mapping[str, TableRow],
    settings: PrepareSettings,
    send: Send,
) -> None:
    """Stage the files that no other process has, largest first; send the name of each that is done.

    Raises:
        ParseError: a file is damaged.
    """
    taxonomy = Taxonomy(Path(settings.taxonomy)) if settings.taxonomy else None
    names = {f"{PROGRESS}/{source.path.name}.json": source for source in sources}
    for claim in output.claims(sorted(names, key=lambda name: (-names[name].path.stat().st_size, name))):
        with claim.lock:
            note = _stage(output, names[claim.name], genomes, taxonomy, settings)
            write_text(claim.target, json.dumps(note))
        send(claim.name)


def _stage(
    output: OutputDirectory,
    source: SourceFile,
    genomes: Mapping[str, TableRow],
    taxonomy: Taxonomy | None,
    settings: PrepareSettings,
) -> dict[str, Any]:
    """Write the shards of one file; return how many there are of each kind, and the counts of its records."""
    counted: list[RecordCounts] = []
    shards = [_Shards(output, source, kind) for kind in (FRAMES, CHUNKS)]
    for records in _batches(read_records(source.path, genomes, taxonomy)):
        counts = [_describe(record, source, settings.chunk_size) for record in records]
        for tables in cut_records(records, counts, settings.chunk_size, settings.evidence):
            for shard, parts in zip(shards, tables, strict=True):
                shard.extend(parts)
        counted += counts
    return {shard.kind: shard.close() for shard in shards} | {"records": [vars(counts) for counts in counted]}


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield batches of records with at least `_BATCH` bases; a record of that length is alone, and is not copied."""
    batch: list[Record] = []
    bases = 0
    for record in records:
        if batch and len(record.sequence) >= _BATCH:
            yield batch
            batch, bases = [], 0
        batch.append(record)
        bases += len(record.sequence)
        if bases >= _BATCH:
            yield batch
            batch, bases = [], 0
    if batch:
        yield batch


def _describe(record: Record, source: SourceFile, chunk_size: int) -> RecordCounts:
    return RecordCounts(
        record=record.accession,
        genome=record.genome.name,
        genome_found_in=record.genome.found_in,
        organism=record.organism,
        lineage=record.lineage,
        deposited=record.deposited,
        group=source.group,
        source=source.path.name,
        length=len(record.sequence),
        chunks=-(-len(record.sequence) // chunk_size),
    )


class _Shards:
    """Tables of one file to Parquet files of at most SHARD_ROWS rows, each with the hashes of its DNA beside it."""

    def __init__(self, output: OutputDirectory, source: SourceFile, kind: str) -> None:
        self._output, self._source, self.kind = output, source, kind
        self._waiting: list[pa.Table] = []
        self._written = 0

    def extend(self, tables: Iterable[pa.Table]) -> None:
        """Add tables; write a shard whenever it is full."""
        for table in tables:
            self._waiting.append(table)
            while sum(map(len, self._waiting)) >= SHARD_ROWS:
                self._write()

    def close(self) -> int:
        """Write what is left; return the number of shards."""
        if sum(map(len, self._waiting)):
            self._write()
        return self._written

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting)
        full = table.slice(0, SHARD_ROWS).combine_chunks()
        path = staged(self._output, self._source, self.kind, self._written)
        if self.kind == FRAMES:
            with atomic_path(hashes_of(path)) as temporary, temporary.open("wb") as stream:
                np.save(stream, _hashes(full["nucleotide"]))
        write_parquet(path, full)
        self._written += 1
        self._waiting = [table.slice(SHARD_ROWS)]


def hashes_of(shard: Path) -> Path:
    """Return the file with the hashes of a staged shard's frames, uint64 `[rows, 2]`."""
    return shard.with_suffix(".npy")


def _hashes(texts: pa.ChunkedArray) -> np.ndarray:
    """Return 128 bits of hash for each text, uint64 `[n, 2]`."""
    digests = []
    for chunk in texts.chunks:
        _, ends, letters = chunk.buffers()
        bounds = np.frombuffer(ends, np.int32, len(chunk) + 1, 4 * chunk.offset).tolist()
        view = memoryview(letters)
        digests += [blake2b(view[begin:end], digest_size=16).digest() for begin, end in pairwise(bounds)]
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table, whole or not at all."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
