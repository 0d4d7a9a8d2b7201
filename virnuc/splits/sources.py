"""The source of a split: the table of frames from a directory of frames, or from features, which have only ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from virnuc.errors import DataError, UsageError
from virnuc.sequences.frames import CHUNKS, GENOMES, frame_shards, read_frames
from virnuc.sequences.genomes import RECORD, TABLE, GenomeName, TableRow, look_up, name_genome
from virnuc.storage.manifest import MANIFEST, has_manifest, read_manifest, verified_manifest
from virnuc.storage.parquet import read_table

_COLUMNS = ["frame_id", "record", "genome", "organism", "lineage", "group", "label", "nucleotide", "protein"]


@dataclass(frozen=True)
class Source:
    """The frames to split."""

    table: pd.DataFrame  # a row for each frame: frame_id, record, genome, organism, lineage, group, label, file, length
    sequences: pd.DataFrame | None  # nucleotide and protein of each row; None for features
    records: pd.DataFrame | None  # what became of each record's chunks; None for features
    deposited: Mapping[str, str]  # ISO date of each genome that has one: of the first of its records
    found_in: Mapping[str, int]  # number of records by what named their genome


def is_frames(directory: Path) -> bool:
    """Return whether a directory holds frames, not features.

    Raises:
        UsageError: there is no such directory.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory; --source needs frames or a feature set")
    return (directory / MANIFEST).is_file() and read_manifest(directory, "frames", "features").kind == "frames"


def inputs_of(directory: Path, chunks_too: bool) -> dict[str, str]:
    """Return the digests of frames (and of their chunks), or of features, after comparing them with the files."""
    if not is_frames(directory):
        from virnuc.features.feature_set import FeatureSet  # which imports torch

        return {"features": FeatureSet.open(directory).digest}
    inputs = {"frames": verified_manifest(directory, "frames").digest}
    if chunks_too and has_manifest(directory / CHUNKS):
        inputs["chunks"] = verified_manifest(directory / CHUNKS, "chunks").digest
    return inputs


def read_source(directory: Path, genomes: Mapping[str, TableRow]) -> Source:
    """Read frames or features; entries of `genomes` override what they say about a record."""
    return _from_frames(directory, genomes) if is_frames(directory) else _from_features(directory, genomes)


def _from_frames(source: Path, genomes: Mapping[str, TableRow]) -> Source:
    records = read_table(source / GENOMES, "run prepare again").to_pandas()
    parts = [read_frames(path, _COLUMNS).to_pandas().assign(file=path.name) for path in frame_shards(source)]
    table = pd.concat(parts, ignore_index=True)
    chunk_size = read_manifest(source, "frames").parameters["chunk_size"]
    table["length"] = table["record"].map(records.set_index("record")["length"].clip(upper=chunk_size))
    for row in records.itertuples():
        if named := look_up(genomes, row.record):
            records.loc[row.Index, ["genome", "genome_found_in"]] = [named.genome, TABLE]
            for name in ("organism", "lineage", "deposited"):
                records.loc[row.Index, name] = getattr(named, name) or getattr(row, name)
    if genomes:
        described = records.set_index("record")
        for name in ("genome", "organism", "lineage"):
            table[name] = table["record"].map(described[name])
    sequences = table[["nucleotide", "protein"]]
    found_in = records["genome_found_in"].value_counts().to_dict()
    return Source(table.drop(columns=list(sequences)), sequences, records, _first_dates(records), found_in)


def _from_features(source: Path, genomes: Mapping[str, TableRow]) -> Source:
    """Return the table of a feature set, where only the ids give record and chunk.

    VirNucPro's folders are named `<group>.<n>.<m>_merged`.
    """
    from virnuc.features.feature_set import FeatureSet

    parts = [
        pd.DataFrame(
            {
                "frame_id": shard.ids,
                "record": [_record_of(frame_id, shard.path) for frame_id in shard.ids],
                "group": shard.path.parent.name.removesuffix("_merged").split(".")[0],
                "label": shard.label,
                "file": shard.path.relative_to(source).as_posix(),
                "length": 0,
            }
        )
        for shard in FeatureSet.open(source).shards
    ]
    table = pd.concat(parts, ignore_index=True)
    names = table["record"].unique()
    rows = {name: look_up(genomes, name) for name in names}
    found = {name: GenomeName(row.genome, TABLE) if row else name_genome(name) for name, row in rows.items()}
    records = pd.DataFrame(
        {
            "genome": [found[name].name for name in names],
            **{key: [getattr(rows[name], key, "") for name in names] for key in ("organism", "lineage", "deposited")},
        },
        index=names,
    )
    for key in ("genome", "organism", "lineage"):
        table[key] = table["record"].map(records[key])
    found_in = pd.Series([found[name].found_in for name in names]).value_counts().to_dict()
    return Source(table, None, None, _first_dates(records), found_in)


def _first_dates(records: pd.DataFrame) -> dict[str, str]:
    """Return the first date among each genome's records; genomes without one are missing."""
    return records[records["deposited"] != ""].groupby("genome")["deposited"].min().to_dict()


def parts_of_records(table: pd.DataFrame, records: pd.DataFrame) -> pd.Series:
    """Return the part of each record: that of its frames or, if it has none, of its genome's other frames.

    Args:
        table: The frames, with `record`, `genome` and `part`.
        records: A row a record, with `record` and `genome`; the result has its index, NaN for a genome without frames.
    """
    by_record, by_genome = (table.drop_duplicates(name).set_index(name)["part"] for name in ("record", "genome"))
    return records["record"].map(by_record).fillna(records["genome"].map(by_genome))


def records_alone(source: Source) -> int:
    """Return how many records count as separate genomes because nothing names their genome."""
    return int(source.found_in.get(RECORD, 0))


def _record_of(frame_id: str, path: Path) -> str:
    record, separator, _ = frame_id.rpartition("_chunk_")
    if not separator:
        raise DataError(f"{path}: the id {frame_id!r} is not ACCESSION_chunk_K, so its record is not known")
    return record
