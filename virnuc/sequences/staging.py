"""The frames of one source file in shards, which stay below `.progress/` until the shards of all files are numbered.

Files are the units of restarting and of work shared by several processes, each of which takes files that no other has.
When all shards of a file are written, a note beside them, a table, has the counts of its records; a file with a note
is not read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from virnuc.sequences.cutting import cut_records
from virnuc.sequences.frames import CHUNKS, COUNTS, RECORD_SCHEMA, SHARD_ROWS
from virnuc.sequences.genomes import TableRow
from virnuc.sequences.reading import Record, read_records
from virnuc.sequences.sources import SourceFile
from virnuc.sequences.taxonomy import Taxonomy
from virnuc.settings import PrepareSettings
from virnuc.storage.directory import OutputDirectory
from virnuc.storage.files import atomic_path
from virnuc.storage.processes import Send

FRAMES = "frames"
_BATCH = 2_000_000  # bases of the records that are cut at once


def note_of(output: OutputDirectory, source: SourceFile) -> Path:
    """Return the path of a file's note, an Arrow file with RECORD_SCHEMA in the order of the records."""
    return output.progress / f"{source.path.name}.arrow"


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
    names = {note_of(output, source).relative_to(output.directory).as_posix(): source for source in sources}
    for claim in output.claims(sorted(names, key=lambda name: (-names[name].path.stat().st_size, name))):
        with claim.lock:
            _stage(output, names[claim.name], genomes, taxonomy, settings)
        send(claim.name)


def _stage(
    output: OutputDirectory,
    source: SourceFile,
    genomes: Mapping[str, TableRow],
    taxonomy: Taxonomy | None,
    settings: PrepareSettings,
) -> None:
    """Write the shards of one file, and its note last."""
    size = settings.chunk_size
    with (
        atomic_path(note_of(output, source)) as temporary,
        pa.ipc.new_file(str(temporary), RECORD_SCHEMA) as note,
    ):
        shards = [_Shards(output, source, kind) for kind in (FRAMES, CHUNKS)]
        for records in _batches(read_records(source.path, genomes, taxonomy)):
            described = _describe(records, source, size)
            counts = np.zeros((len(COUNTS), len(records)), dtype=np.int64)
            for *tables, counted in cut_records(records, described, size, settings.evidence):
                for shard, table in zip(shards, tables, strict=True):
                    shard.extend(table)
                counts += counted
            columns = [*described.columns, *map(pa.array, counts)]
            note.write_batch(pa.record_batch(columns, schema=RECORD_SCHEMA))
        for shard in shards:
            shard.close()


def read_note(path: Path) -> pa.Table:
    """Return a file's note, whose columns stay on disk until they are needed."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def shards_noted(note: pa.Table) -> dict[str, int]:
    """Return how many shards of each kind there are of the file with a note."""
    rows = {FRAMES: note["frames"], CHUNKS: pc.subtract(note["chunks"], note["ambiguous_bases"])}
    return {kind: -(-(pc.sum(counts).as_py() or 0) // SHARD_ROWS) for kind, counts in rows.items()}


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


def _describe(records: Sequence[Record], source: SourceFile, chunk_size: int) -> pa.RecordBatch:
    """Return a row for each record, RECORD_SCHEMA up to the counts."""
    lengths = np.array([len(record.sequence) for record in records], dtype=np.int64)
    columns = [
        [record.accession for record in records],
        [record.genome.name for record in records],
        [record.genome.found_in for record in records],
        [record.organism for record in records],
        [record.lineage for record in records],
        [record.deposited for record in records],
        [source.group] * len(records),
        [source.path.name] * len(records),
        lengths,
        -(-lengths // chunk_size),
    ]
    described = pa.schema(list(RECORD_SCHEMA)[: len(columns)])
    arrays = [pa.array(values, declared.type) for values, declared in zip(columns, described, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=described)


class _Shards:
    """Tables of one file to Parquet files of at most SHARD_ROWS rows, each with the hashes of its DNA beside it."""

    def __init__(self, output: OutputDirectory, source: SourceFile, kind: str) -> None:
        self._output, self._source, self.kind = output, source, kind
        self._waiting: list[pa.Table] = []
        self._written = 0

    def extend(self, table: pa.Table) -> None:
        """Add a table; write a shard whenever it is full."""
        self._waiting.append(table)
        while sum(map(len, self._waiting)) >= SHARD_ROWS:
            self._write()

    def close(self) -> None:
        """Write what is left."""
        if sum(map(len, self._waiting)):
            self._write()

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
