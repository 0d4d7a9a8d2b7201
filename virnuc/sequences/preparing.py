"""`prepare`: genomes to frames, with every chunk and frame that is dropped counted by its reason.

Chunks without a frame are kept beside the frames, under `uncovered/`: `predict` answers for such chunks too, and how
well it does is judged on them. Only chunks with bases other than ACGT are lost.

A source file is the unit of restart. Its shards are written first, then a record of what it gave under
`.progress/`; a file whose record exists is not read again. When all files are done the draw of `--balance` is
made, `genomes.parquet` (counts of each record) and `genomes.tsv` (the table that `split --genomes` takes) are put
together from those records, and the manifest is written last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.errors import DataError
from virnuc.runtime import Progress, counted, silent
from virnuc.sequences.cutting import cut_records
from virnuc.sequences.frames import (
    GENOMES,
    NO_CDS_EVIDENCE,
    NO_OPEN_FRAME,
    SHARD_ROWS,
    UNCOVERED,
    RecordCounts,
    read_frames,
)
from virnuc.sequences.genomes import GENOME_TABLE, TableRow, read_genome_table, write_genome_table
from virnuc.sequences.reading import Record, read_records
from virnuc.sequences.sources import SourceFile, find_sources
from virnuc.settings import PrepareSettings
from virnuc.storage.directory import OutputDirectory
from virnuc.storage.draws import draw
from virnuc.storage.files import atomic_path, sha256_file, write_text
from virnuc.storage.manifest import Manifest, has_manifest

_KINDS = ("shards", "uncovered")  # what a record names files of: frames, and chunks without one
_BATCH = 2_000_000  # bases of the records that are cut at once


def prepare(settings: PrepareSettings, progress: Progress = silent) -> Manifest:
    """Write the frames of all genomes under `settings.source` to `settings.out`, or finish what was begun.

    Args:
        settings: where from, where to, and which frames to keep.
        progress: told how many source files are done.

    Raises:
        UsageError: no such directory.
        ParseError: a file is damaged.
        DataError: no sequence files, one class only, an accession twice, no frame at all, or a finished directory that
            lacks the chunks without a frame.
    """
    sources = find_sources(Path(settings.source))
    out = Path(settings.out)
    parameters = {name: settings.plain()[name] for name in ("chunk_size", "evidence", "balance")}
    if settings.balance:
        parameters["seed"] = settings.seed
    table = Path(settings.source) / GENOME_TABLE
    named = [*(source.path for source in sources), *([table] if table.is_file() else [])]
    inputs = {path.name: sha256_file(path) for path in named}
    output = OutputDirectory(out, "frames", parameters, inputs)
    with output.alone() as finished:
        if finished is not None:
            return _check_whole(out, finished)
        genomes = read_genome_table(table) if table.is_file() else {}
        records = list(_process_sources(counted(sources, len(sources), "prepare", progress), genomes, settings, output))
        return _finish(output, settings, records)


def _check_whole(out: Path, manifest: Manifest) -> Manifest:
    if not has_manifest(out / UNCOVERED):
        raise DataError(
            f"{out}: has no {UNCOVERED}/, the chunks without a frame, which an earlier virnuc did not keep; "
            f"delete {out} and run prepare again: the frames will be the same, and features made from them stay valid"
        )
    return manifest


def _process_sources(
    sources: Iterable[SourceFile], genomes: Mapping[str, TableRow], settings: PrepareSettings, output: OutputDirectory
) -> Iterator[dict[str, Any]]:
    """Yield what each source file gave, from its record where a former run finished it."""
    first: Counter[tuple[str, str]] = Counter()
    for source in sources:
        path = output.progress / f"{source.path.name}.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
        else:
            numbers = {kind: first[kind, source.group] for kind in _KINDS}
            record = _process(source, genomes, numbers, settings, output.directory)
            write_text(path, json.dumps(record))
        first.update({(kind, source.group): len(record[kind]) for kind in _KINDS})
        yield record


def _process(
    source: SourceFile, genomes: Mapping[str, TableRow], first: dict[str, int], settings: PrepareSettings, out: Path
) -> dict[str, Any]:
    """Write the shards of one source file; return their names and the counts of its records."""
    counted: list[RecordCounts] = []
    frames = _Shards(out, source.group, first["shards"])
    uncovered = _Shards(out / UNCOVERED, source.group, first["uncovered"])
    for records in _batches(read_records(source.path, genomes)):
        counts = [_describe(record, source, settings.chunk_size) for record in records]
        for shards, tables in zip(
            (frames, uncovered), cut_records(records, counts, settings.chunk_size, settings.evidence), strict=True
        ):
            shards.extend(tables)
        counted += counts
    return {"shards": frames.close(), "uncovered": uncovered.close(), "records": [vars(counts) for counts in counted]}


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield records together, as many as have `_BATCH` bases; one with more is alone with those before it."""
    batch: list[Record] = []
    bases = 0
    for record in records:
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
    """Tables of one group to Parquet files of at most SHARD_ROWS rows."""

    def __init__(self, directory: Path, group: str, first: int) -> None:
        self._directory, self._group, self._first = directory, group, first
        self._waiting: list[pa.Table] = []
        self._names: list[str] = []

    def extend(self, tables: Iterable[pa.Table]) -> None:
        """Take tables, and write whenever a shard is full."""
        for table in tables:
            self._waiting.append(table)
            while sum(map(len, self._waiting)) >= SHARD_ROWS:
                self._write()

    def close(self) -> list[str]:
        """Write what is left; return the names of all shards."""
        if sum(map(len, self._waiting)):
            self._write()
        return self._names

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting)
        self._names.append(f"{self._group}-{self._first + len(self._names):05d}.parquet")
        _write_parquet(self._directory / self._names[-1], table.slice(0, SHARD_ROWS).combine_chunks())
        self._waiting = [table.slice(SHARD_ROWS)]


def _finish(output: OutputDirectory, settings: PrepareSettings, records: list[dict[str, Any]]) -> Manifest:
    """Draw, put the tables together and write the manifests."""
    out = output.directory
    read = [RecordCounts(**row) for record in records for row in record["records"]]
    counted = [counts for counts in read if counts.length]
    shards = [out / name for record in records for name in record["shards"]]
    _check_records(read, settings)
    before = sum(counts.frames for counts in counted)
    if settings.balance:
        _balance(shards, output.progress / "balance.json", settings.seed)
    _write_parquet(out / GENOMES, pa.Table.from_pylist([asdict(counts) for counts in counted]))
    described = {c.record: TableRow(c.genome, c.organism, c.lineage, c.deposited) for c in counted}
    write_genome_table(out / GENOME_TABLE, described)
    rows = _rows(out, (path.name for path in shards))
    totals = {name: sum(getattr(counts, name) for counts in counted) for name in _totals()}
    uncovered = _finish_uncovered(output, records, totals)
    counts = {
        "in": {
            "records": len(read),
            "genomes": len({counts.genome for counts in counted}),
            "bases": totals["length"],
            "chunks": totals["chunks"],
        },
        "out": {"chunks": totals["covered"], "frames": sum(rows.values())},
        "dropped": {
            "records_without_sequence": len(read) - len(counted),
            "chunks_ambiguous_bases": totals["ambiguous_bases"],
            "chunks_no_open_frame": totals["no_open_frame"],
            "chunks_no_cds_evidence": totals["no_cds_evidence"],
            "frames_no_cds_evidence": totals["open_frames"] - before,
            "frames_balance": before - sum(rows.values()),
        },
    }
    details = {
        "uncovered_digest": uncovered.digest,
        "records_by_source_of_genome": dict(Counter(counts.genome_found_in for counts in counted)),
    }
    return output.complete(rows | dict.fromkeys((GENOMES, GENOME_TABLE), len(counted)), counts, details)


def _finish_uncovered(frames: OutputDirectory, records: list[dict[str, Any]], totals: dict[str, int]) -> Manifest:
    """Write the manifest of the chunks without a frame."""
    parameters = {name: frames.parameters[name] for name in ("chunk_size", "evidence")}
    output = OutputDirectory(frames.directory / UNCOVERED, "chunks", parameters, frames.inputs)
    rows = _rows(output.directory, (name for record in records for name in record["uncovered"]))
    without = {reason: totals[reason] for reason in (NO_OPEN_FRAME, NO_CDS_EVIDENCE)}
    counts = {
        "in": {"chunks": totals["chunks"]},
        "out": {"chunks": sum(rows.values()), **without},
        "dropped": {"chunks_with_frames": totals["covered"], "chunks_ambiguous_bases": totals["ambiguous_bases"]},
    }
    return output.complete(rows, counts)


def _rows(directory: Path, names: Iterable[str]) -> dict[str, int]:
    return {name: pq.read_metadata(directory / name).num_rows for name in names}


def _totals() -> list[str]:
    return [declared.name for declared in fields(RecordCounts) if declared.type == "int"]


def _check_records(records: list[RecordCounts], settings: PrepareSettings) -> None:
    seen: dict[str, str] = {}
    for counts in records:
        if counts.record in seen:
            raise DataError(
                f"accession {counts.record} is in {seen[counts.record]} and again in {counts.source}; keep one of them"
            )
        seen[counts.record] = counts.source
    classes = {counts.group == "viral" for counts in records if counts.frames}
    if len(classes) < 2:
        missing = "frames at all" if not classes else "non-viral frames" if True in classes else "viral frames"
        hint = "; FASTA has no annotation: use --evidence open" if settings.evidence == "cds" else ""
        raise DataError(f"{settings.source}: it gives no {missing}, and a classifier needs both classes{hint}")


def _balance(shards: list[Path], path: Path, seed: int) -> None:
    """Keep as many frames of the larger class as the smaller has: those whose seeded hash is smallest.

    The highest hash to keep is fixed in the file `path` before the first shard is rewritten, so a restart filters the
    remaining shards alike, and filtering a shard twice changes nothing.
    """
    if not path.is_file():
        hashes: dict[int, list[str]] = {0: [], 1: []}
        for shard in shards:
            table = read_frames(shard, ["frame_id", "label"])
            label = table["label"][0].as_py()
            hashes[label].extend(draw(seed, frame_id) for frame_id in table["frame_id"].to_pylist())
        larger = max(hashes, key=lambda label: len(hashes[label]))
        highest = sorted(hashes[larger])[len(hashes[1 - larger]) - 1]
        write_text(path, json.dumps({"label": larger, "highest": highest}))
    drawn = json.loads(path.read_text(encoding="utf-8"))
    for shard in shards:
        table = read_frames(shard)
        if table.num_rows and table["label"][0].as_py() == drawn["label"]:
            kept = [draw(seed, frame_id) <= drawn["highest"] for frame_id in table["frame_id"].to_pylist()]
            _write_parquet(shard, table.filter(pa.array(kept)))


def _write_parquet(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
