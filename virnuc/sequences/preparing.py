"""`prepare`: genomes to frames, with every chunk and frame that is dropped counted by its reason.

The DNA of all chunks, with and without frames, is kept under `chunks/`: `predict` answers for every
chunk, and a companion is trained on them. Only chunks with bases other than ACGT are left out.

Each source file is staged separately, by one or several workers (see `staging`). When all are done, their shards
are numbered in the order of the files' names, identical frames are dropped, the draw of `--balance` is made,
`genomes.parquet` (counts of each record) and `genomes.tsv` (the table that `split --genomes` takes) are written,
and the manifest last. The bytes do not depend on the number of workers. Each worker needs 0.25 GB and about 3 bytes
for each base of the largest record of its files. Then the counts of all records take about 300 bytes a record, and
finding identical frames 75 bytes a frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from virnuc.errors import DataError, VirnucError
from virnuc.runtime import Progress, silent
from virnuc.sequences.balancing import balance
from virnuc.sequences.frames import (
    CHUNKS,
    COUNTS,
    COVERED,
    GENOMES,
    NO_CDS_EVIDENCE,
    NO_OPEN_FRAME,
)
from virnuc.sequences.genomes import GENOME_TABLE, TableRow, read_genome_table, write_genome_table
from virnuc.sequences.identical import drop_identical, find_identical
from virnuc.sequences.sources import SourceFile, find_sources
from virnuc.sequences.staging import (
    FRAMES,
    hashes_of,
    note_of,
    read_note,
    shards_noted,
    stage_files,
    staged,
    write_parquet,
)
from virnuc.sequences.taxonomy import NAMES, NODES, Taxonomy
from virnuc.settings import PrepareSettings
from virnuc.storage.directory import OutputDirectory
from virnuc.storage.files import sha256_file
from virnuc.storage.manifest import Manifest, has_manifest
from virnuc.storage.workers import find_workers


def prepare(settings: PrepareSettings, progress: Progress = silent) -> Manifest:
    """Write the frames of all genomes under `settings.source` to `settings.out`, or finish what was begun.

    Args:
        settings: where from, where to, and which frames to keep.
        progress: told how many source files are done.

    Raises:
        UsageError: no such directory, or no taxonomy in it.
        ParseError: a file is damaged.
        DataError: no sequence files, one class only, an accession twice, no frame at all, or a finished directory that
            lacks the chunks.
    """
    sources = find_sources(Path(settings.source))
    out = Path(settings.out)
    parameters = {name: settings.plain()[name] for name in ("chunk_size", "evidence", "balance")}
    if settings.balance:
        parameters |= {"balance": "evenly over groups", "seed": settings.seed}
    table = Path(settings.source) / GENOME_TABLE
    named = [*(source.path for source in sources), *([table] if table.is_file() else [])]
    if settings.taxonomy:
        named += [Path(settings.taxonomy) / name for name in (NODES, NAMES)]
        Taxonomy(Path(settings.taxonomy))  # says what is wrong with it before any file is read
    inputs = {path.name: sha256_file(path) for path in named}
    output = OutputDirectory(out, "frames", parameters, inputs)
    with output.alone() as finished:
        if finished is not None:
            return _check_whole(out, finished)
        genomes = read_genome_table(table) if table.is_file() else {}
        _stage_all(output, sources, genomes, settings, progress)
        return _finish(output, settings, sources)


def _check_whole(out: Path, manifest: Manifest) -> Manifest:
    if not has_manifest(out / CHUNKS):
        raise DataError(
            f"{out}: its {CHUNKS}/ is missing; delete {out} and run prepare again: the frames will be the same, "
            "and features made from them remain valid"
        )
    return manifest


def _stage_all(
    output: OutputDirectory,
    sources: Sequence[SourceFile],
    genomes: Mapping[str, TableRow],
    settings: PrepareSettings,
    progress: Progress,
) -> None:
    """Stage each source file that a former run did not, in this process or in several."""
    unread = [source for source in sources if not note_of(output, source).is_file()]
    done = len(sources) - len(unread)
    progress("prepare", done, len(sources))

    def hear(worker: str, name: str) -> None:
        nonlocal done
        done += 1
        progress("prepare", done, len(sources))

    work = partial(stage_files, output, unread, genomes, settings)
    workers = find_workers(settings.engine, settings.workers).at_most(len(unread))
    if not workers.several:
        return work(partial(hear, ""))
    codes = workers.run(lambda device: work, hear)
    if not all(note_of(output, source).is_file() for source in unread):
        raise VirnucError(f"all workers ended before the work did ({codes}); give the same command again to resume")


def _finish(output: OutputDirectory, settings: PrepareSettings, sources: Sequence[SourceFile]) -> Manifest:
    """Number the shards, drop identical frames, balance, and write tables and manifests."""
    out = output.directory
    notes = [read_note(note_of(output, source)) for source in sources]
    noted = [shards_noted(note) for note in notes]
    read = pa.concat_tables(notes)
    _check_records(read, settings)
    empty = pc.equal(read["length"], 0)
    counted = (read.filter(pc.invert(empty)) if pc.any(empty).as_py() else read).combine_chunks()
    totals = {name: pc.sum(counted[name]).as_py() for name in ("length", "chunks", *COUNTS)}
    shards, hashes = _number(output, sources, noted, FRAMES)
    drop, identical = find_identical(hashes, [_label(shard) for shard in shards])
    if {_label(shard) for shard, which in zip(shards, drop, strict=True) if not which.all()} != {0, 1}:
        raise DataError(f"{settings.source}: all frames of one class occur in the other too; look at its files")
    drawn = output.progress / "balance.json"
    if not drawn.is_file():  # which is written when all identical frames are gone
        drop_identical(shards, drop)
    if settings.balance:
        balance(shards, drawn, settings.seed)
    write_parquet(out / GENOMES, counted)
    write_genome_table(out / GENOME_TABLE, counted)
    rows = _rows(out, shards)
    chunks = _finish_chunks(output, _number(output, sources, noted, CHUNKS)[0], totals)
    counts = {
        "in": {
            "records": len(read),
            "genomes": pc.count_distinct(counted["genome"]).as_py(),
            "bases": totals["length"],
            "chunks": totals["chunks"],
        },
        "out": {"chunks": totals[COVERED], "frames": sum(rows.values())},
        "dropped": {
            "records_without_sequence": len(read) - len(counted),
            "chunks_ambiguous_bases": totals["ambiguous_bases"],
            "chunks_no_open_frame": totals[NO_OPEN_FRAME],
            "chunks_no_cds_evidence": totals[NO_CDS_EVIDENCE],
            "frames_no_cds_evidence": totals["open_frames"] - totals["frames"],
            **identical,
            "frames_balance": totals["frames"] - sum(identical.values()) - sum(rows.values()),
        },
    }
    found_in = counted["genome_found_in"].value_counts().to_pylist()
    details = {
        "chunks_digest": chunks.digest,
        "records_by_source_of_genome": {found["values"]: found["counts"] for found in found_in},
    }
    return output.complete(rows | dict.fromkeys((GENOMES, GENOME_TABLE), len(counted)), counts, details)


def _number(
    output: OutputDirectory, sources: Sequence[SourceFile], noted: Sequence[Mapping[str, int]], kind: str
) -> tuple[list[Path], list[np.ndarray]]:
    """Move staged shards to their numbers within each group; return them and their hashes, which only frames have."""
    directory = output.directory if kind == FRAMES else output.directory / kind
    directory.mkdir(exist_ok=True)
    shards, hashes, numbers = [], [], Counter[str]()
    for source, shards_of in zip(sources, noted, strict=True):
        for number in range(shards_of[kind]):
            waiting = staged(output, source, kind, number)
            shards.append(directory / f"{source.group}-{numbers[source.group]:05d}.parquet")
            numbers[source.group] += 1
            if waiting.is_file():  # else a former run moved it
                waiting.replace(shards[-1])
            if kind == FRAMES:
                hashes.append(np.load(hashes_of(waiting), allow_pickle=False))
    return shards, hashes


def _finish_chunks(frames: OutputDirectory, shards: list[Path], totals: dict[str, int]) -> Manifest:
    """Write the manifest of the chunks."""
    parameters = {name: frames.parameters[name] for name in ("chunk_size", "evidence")}
    output = OutputDirectory(frames.directory / CHUNKS, "chunks", parameters, frames.inputs)
    rows = _rows(output.directory, shards)
    by_reason = {reason: totals[reason] for reason in (COVERED, NO_OPEN_FRAME, NO_CDS_EVIDENCE)}
    counts = {
        "in": {"chunks": totals["chunks"]},
        "out": {"chunks": sum(rows.values()), **by_reason},
        "dropped": {"chunks_ambiguous_bases": totals["ambiguous_bases"]},
    }
    return output.complete(rows, counts)


def _rows(directory: Path, shards: Iterable[Path]) -> dict[str, int]:
    return {shard.relative_to(directory).as_posix(): pq.read_metadata(shard).num_rows for shard in shards}


def _check_records(records: pa.Table, settings: PrepareSettings) -> None:
    if pc.count_distinct(records["record"]).as_py() < len(records):
        seen: dict[str, str] = {}
        for record, source in zip(records["record"].to_pylist(), records["source"].to_pylist(), strict=True):
            if record in seen:
                raise DataError(f"accession {record} is in {seen[record]} and again in {source}; keep one of them")
            seen[record] = source
    groups = records["group"].filter(pc.greater(records["frames"], 0)).unique().to_pylist()
    classes = {group == "viral" for group in groups}
    if len(classes) < 2:
        missing = "frames at all" if not classes else "non-viral frames" if True in classes else "viral frames"
        hint = "; FASTA has no annotation: use --evidence open" if settings.evidence == "cds" else ""
        raise DataError(f"{settings.source}: gives no {missing}, but a classifier needs both classes{hint}")


def _label(shard: Path) -> int:
    return int(shard.name.rpartition("-")[0] == "viral")
