"""`split`: which frames are for training, validation and testing, decided once for every feature set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from virnuc.errors import DataError, UsageError
from virnuc.sequences.frames import CHUNK_SCHEMA, chunk_shards, read_chunks
from virnuc.sequences.genomes import look_up, read_genome_table
from virnuc.settings import SplitSettings, flag_name
from virnuc.splits.leakage import RELATIVES, measure_leakage
from virnuc.splits.metadata import describe_split
from virnuc.splits.similarity import clusters_of_genomes
from virnuc.splits.sources import Source, inputs_of, parts_of_records, read_source
from virnuc.splits.units import LEFT_OUT, PARTS, WHOLE_GENOMES, assign
from virnuc.storage.directory import OutputDirectory
from virnuc.storage.files import atomic_path, read_json, sha256_file, write_text
from virnuc.storage.manifest import verified_manifest
from virnuc.storage.parquet import read_table

ASSIGNMENTS = "assignments.parquet"
METADATA = "test_metadata.json"
CHUNKS = "chunks.parquet"  # all chunks of the genomes for validation and testing
RECORDS = "records.parquet"  # all records of the genomes, those without a frame too
COLUMNS = ("frame_id", "record", "genome", "organism", "lineage", "group", "label", "length", "part")
_REPEATED = ("record", "genome", "organism", "lineage", "group", "part")  # kept once for all frames that share them
_HASHED_AT_ONCE = 65_536  # lines
_REMEDY = "run split again"
_DECISIVE = {  # by unit
    "lineage": ("clade", "after"),
    "cluster": ("identity", "coverage", "shared"),
    "file": ("straddling",),
}


@dataclass(frozen=True)
class Split:
    """A finished split."""

    directory: Path
    table: pd.DataFrame  # a row for each frame, in the order of its source: COLUMNS, those that repeat as categories
    metadata: dict[str, Any]  # test_metadata.json

    @classmethod
    def open(cls, directory: Path) -> Split:
        """Read and check a split.

        Raises:
            UsageError: there is no such directory.
            DataError: it is unfinished or changed since it was written.
        """
        verified_manifest(directory, "split")
        table = read_table(directory / ASSIGNMENTS, _REMEDY, repeated=_REPEATED)
        metadata = read_json(directory / METADATA)
        if tuple(table.column_names) != COLUMNS or metadata.get("digest") != assignment_digest(table):
            raise DataError(f"{directory}: its {ASSIGNMENTS} and {METADATA} do not belong together; run split again")
        frames = table.to_pandas(split_blocks=True, self_destruct=True)
        del table
        pa.default_memory_pool().release_unused()  # 100 MB, for two million frames
        return cls(directory, frames, metadata)

    @property
    def digest(self) -> str:
        """SHA-256 over frame ids and parts: two splits with the same digest are the same assignment."""
        return str(self.metadata["digest"])

    @cached_property
    def rows(self) -> dict[str, Any]:
        """Positions in `table` of the frames of each part, as int64 arrays."""
        return {part: (self.table["part"] == part).to_numpy().nonzero()[0] for part in PARTS}

    @property
    def lacks_chunks(self) -> str:
        """Why the split keeps no chunks; empty if it does."""
        if (self.directory / CHUNKS).is_file():
            return ""
        unit = str(self.metadata.get("unit"))
        made = "was made from features or a sample, which have none"
        return f"the split keeps no chunks: it {made if unit in WHOLE_GENOMES else f'has unit {unit}'}"

    def chunks(self, part: str) -> pd.DataFrame:
        """Return all chunks of the genomes of one part, `val` or `test`; `reason` is `covered` for those with a frame.

        Raises:
            DataError: the split keeps none; the message says why.
        """
        if self.lacks_chunks:
            raise DataError(self.lacks_chunks)
        table = read_table(self.directory / CHUNKS, _REMEDY).to_pandas()
        return table[table["part"] == part].drop(columns="part").reset_index(drop=True)

    @cached_property
    def records(self) -> pd.DataFrame:
        """`genome` and `part` of each record, by `record`.

        Records without a frame are in the part of their genome. They are missing if the split was made from features or
        by a unit that may divide genomes.
        """
        path = self.directory / RECORDS
        if path.is_file():
            table = read_table(path, _REMEDY).to_pandas()
        else:
            table = self.table[["record", "genome", "part"]].drop_duplicates()
        return table.set_index("record")

    def frames(self, part: str) -> pd.DataFrame:
        """Return the rows of `table` of one part's frames, numbered from 0, with plain strings."""
        return self.table.iloc[self.rows[part]].reset_index(drop=True).astype(dict.fromkeys(_REPEATED, "str"))

    def frame_ids(self, part: str) -> list[str]:
        """Return the ids of one part's frames, in the order of `table`."""
        return list(self.table["frame_id"].iloc[self.rows[part]])

    def relatives(self) -> pd.DataFrame | None:
        """Return the most similar training frame of each test frame, as `measure_leakage` does; None for features."""
        path = self.directory / RELATIVES
        return read_table(path, _REMEDY).to_pandas() if path.is_file() else None


def split(settings: SplitSettings, begun: Callable[[], object] = lambda: None) -> Split:
    """Assign the frames of a directory of frames or features, or return the split if it is already there.

    Args:
        settings: source, unit, fractions, seed and output directory.
        begun: called when all inputs are read and the work begins.

    Raises:
        UsageError: no such directory or table, fractions that leave a part without one of the classes, a unit that the
            source does not know, or a clade or date that nothing matches.
        DataError: the source is unfinished or damaged, or the split there was made from something else.
    """
    source, out = Path(settings.source), Path(settings.out)
    names = ("test_fraction", "val_fraction", "unit", "seed", *_DECISIVE.get(settings.unit, ()))
    inputs = inputs_of(source, settings.unit in WHOLE_GENOMES)
    for name, path in (("genomes", settings.genomes), ("test_genomes", settings.test_genomes)):
        if path and not Path(path).is_file():
            raise UsageError(f"{flag_name(name)} {path}: no such file")
        if path:
            inputs[name] = sha256_file(Path(path))
    output = OutputDirectory(out, "split", {name: settings.plain()[name] for name in names}, inputs)
    with output.alone() as finished:
        if finished is None:
            genomes = read_genome_table(Path(settings.genomes)) if settings.genomes else {}
            frames = read_source(source, genomes)
            begun()
            _make(output, frames, settings)
    return Split.open(out)


def assignment_digest(table: pa.Table) -> str:
    """Return the SHA-256 over sorted lines of frame id, tab and part.

    Two million lines as Python objects would take 300 MB, so Arrow joins and sorts them.
    """
    ids, parts, tab = (column.cast(pa.large_string()) for column in (table["frame_id"], table["part"], pa.scalar("\t")))
    lines = pc.binary_join_element_wise(ids, parts, tab).combine_chunks()
    order, digest = pc.sort_indices(lines), hashlib.sha256()
    for start in range(0, len(lines), _HASHED_AT_ONCE):
        some = lines.take(order[start : start + _HASHED_AT_ONCE]).to_pylist()
        digest.update(("\n" * bool(start) + "\n".join(some)).encode())
    return digest.hexdigest()


def _make(output: OutputDirectory, source: Source, settings: SplitSettings) -> None:
    """Assign the frames, measure leakage, and write everything, the manifest last."""
    table, sequences = source.table, source.sequences
    if settings.unit == "cluster":
        if sequences is None:
            raise DataError(f"{settings.source}: features hold no sequences to cluster; split their frames")
        similarity = (settings.identity, settings.coverage, settings.shared)
        table["cluster"] = clusters_of_genomes(
            table["genome"], sequences["protein"].tolist(), sequences["nucleotide"].tolist(), *similarity
        )
    assign(table, settings, source.deposited, _testable(table, settings))
    leakage, relatives = measure_leakage(table, sequences)
    metadata = describe_split(source, settings, leakage)
    metadata["digest"] = assignment_digest(pa.Table.from_pandas(table[["frame_id", "part"]]))
    out = output.directory
    with atomic_path(out / ASSIGNMENTS) as temporary:
        table[list(COLUMNS)].astype({"label": "int8"}).to_parquet(temporary, index=False)
    write_text(out / METADATA, json.dumps(metadata, indent=1) + "\n")
    written = {ASSIGNMENTS: len(table), METADATA: 1}
    if relatives is not None:
        with atomic_path(out / RELATIVES) as temporary:
            relatives.to_parquet(temporary, index=False)
        written[RELATIVES] = len(relatives)
    if settings.unit == "file":
        _link_test_shards(out, Path(settings.source), table)
    elif sequences is not None:
        written |= _write_test_sequences(out, table.assign(**{name: sequences[name] for name in sequences}))
    if settings.unit in WHOLE_GENOMES and source.records is not None:
        parts = parts_of_records(table, source.records)
        records = source.records[["record", "genome"]].assign(part=parts).dropna(subset="part")
        with atomic_path(out / RECORDS) as temporary:
            records.to_parquet(temporary, index=False)
        written[RECORDS] = len(records)
        if "chunks" in (output.inputs or ()):
            written[CHUNKS] = _write_chunks(out, Path(settings.source), records.set_index("record")["part"])
    counts = {
        "in": {"frames": len(table)},
        "out": metadata["frames"],
        "dropped": {"frames_of_genomes_on_both_sides": int((table["part"] == LEFT_OUT).sum())},
    }
    output.complete(written, counts, {"split_digest": metadata["digest"]})


def _testable(table: pd.DataFrame, settings: SplitSettings) -> np.ndarray | None:
    """Return which frames are of records that --test-genomes lists, bool `[n]`; None without such a table.

    Raises:
        UsageError: it lists none of the records.
    """
    if not settings.test_genomes:
        return None
    listed = read_genome_table(Path(settings.test_genomes))
    codes, records = pd.factorize(table["record"])
    found = np.array([look_up(listed, record) is not None for record in records])[codes]
    if not found.any():
        raise UsageError(f"--test-genomes {settings.test_genomes}: lists none of the records of {settings.source}")
    return found


def _write_chunks(out: Path, directory: Path, part_of: pd.Series) -> int:
    """Write all chunks of the validation and test genomes, which `evaluate` scores; return their number.

    `part_of` has the part of each record, by its name.
    """
    kept = [pd.DataFrame(columns=[*CHUNK_SCHEMA.names, "part"])]
    for path in chunk_shards(directory):
        chunks = read_chunks(path).to_pandas()
        chunks["part"] = chunks["record"].map(part_of)
        kept.append(chunks[chunks["part"].isin(["val", "test"])])
    schema = CHUNK_SCHEMA.append(pa.field("part", pa.string()))
    chosen = pa.Table.from_pandas(pd.concat(kept, ignore_index=True), schema=schema, preserve_index=False)
    with atomic_path(out / CHUNKS) as temporary:
        pq.write_table(chosen, temporary, compression="zstd")
    return len(chosen)


def _write_test_sequences(out: Path, table: pd.DataFrame) -> dict[str, int]:
    """Write the test frames as FASTA, DNA and protein, apart by label; return their numbers by file."""
    written = {}
    for label, name in ((1, "viral"), (0, "non_viral")):
        chosen = table[(table["part"] == "test") & (table["label"] == label)]
        for column, suffix in (("nucleotide", "fna"), ("protein", "faa")):
            text = "".join(f">{i}\n{s}\n" for i, s in zip(chosen["frame_id"], chosen[column], strict=True))
            write_text(out / name / f"frames.{suffix}", text)
            written[f"{name}/frames.{suffix}"] = len(chosen)
    return written


def _link_test_shards(out: Path, source: Path, table: pd.DataFrame) -> None:
    """Link the test shards into `viral/` and `non_viral/`, as VirNucPro's own split does."""
    chosen = table[table["part"] == "test"].drop_duplicates("file")
    for file, label in zip(chosen["file"], chosen["label"], strict=True):
        link = out / ("viral" if label else "non_viral") / str(file).replace("/", "_")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((source / str(file)).resolve())
