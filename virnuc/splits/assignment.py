"""`split`: which frames are for training, validation and testing, decided once for every feature set.

Within each group (and so each label) the units are taken in an order that a hash of the seed and the unit's name
gives, and each goes into the test part if that brings the part nearer to its share; validation is cut from the
rest in the same way. The assignment depends on ids and seed alone: not on file order, shards or a random state.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from virnuc.errors import DataError, UsageError
from virnuc.features.feature_set import FeatureSet
from virnuc.sequences.frames import (
    CHUNK_SCHEMA,
    GENOMES,
    UNCOVERED,
    frame_shards,
    read_chunks,
    read_frames,
    uncovered_shards,
)
from virnuc.sequences.genomes import name_genome
from virnuc.settings import SplitSettings
from virnuc.splits.metadata import PARTS, describe_split
from virnuc.storage.files import atomic_path, exclusive, remove_leftovers, write_text
from virnuc.storage.manifest import MANIFEST, Manifest, check_reusable, describe_shard, has_manifest, read_manifest
from virnuc.storage.manifest import verify_shards as verify

ASSIGNMENTS = "assignments.parquet"
METADATA = "test_metadata.json"
CHUNKS = "uncovered.parquet"  # chunks without a frame of the genomes for validation and testing
COLUMNS = ("frame_id", "record", "genome", "organism", "lineage", "group", "label", "length", "part")
_REPEATED = ("record", "genome", "organism", "lineage", "group", "part")  # kept once for all frames that share them
_HASHED_AT_ONCE = 65_536  # lines


@dataclass(frozen=True)
class Split:
    """A finished split."""

    directory: Path
    table: pd.DataFrame  # a row a frame, in the order of its source: COLUMNS, those that repeat as categories
    metadata: dict[str, Any]  # test_metadata.json

    @classmethod
    def open(cls, directory: Path) -> Split:
        """Read and check a split.

        Raises:
            UsageError: there is no such directory.
            DataError: it is unfinished or changed since it was written.
        """
        manifest = read_manifest(directory, "split")
        verify(directory, manifest)
        table = pq.read_table(directory / ASSIGNMENTS, read_dictionary=list(_REPEATED))
        metadata = json.loads((directory / METADATA).read_text(encoding="utf-8"))
        if tuple(table.column_names) != COLUMNS or metadata.get("digest") != assignment_digest(table):
            raise DataError(f"{directory}: its {ASSIGNMENTS} and {METADATA} do not belong together; run split again")
        frames = table.to_pandas(split_blocks=True, self_destruct=True)
        del table
        pa.default_memory_pool().release_unused()  # 100 MB, for two million frames
        return cls(directory, frames, metadata)

    @property
    def digest(self) -> str:
        """SHA-256 over frame ids and parts: two splits with one digest assign the same frames alike."""
        return str(self.metadata["digest"])

    @cached_property
    def rows(self) -> dict[str, Any]:
        """Positions in `table` of the frames of each part, as int64 arrays."""
        return {part: (self.table["part"] == part).to_numpy().nonzero()[0] for part in PARTS}

    @property
    def lacks_chunks(self) -> str:
        """Why the split keeps no chunks without a frame; empty if it does."""
        if (self.directory / CHUNKS).is_file():
            return ""
        unit = str(self.metadata.get("unit"))
        made = "was made from features or a sample, which have none, or before they were kept"
        return f"the split keeps no chunks without a frame: it {made if unit == 'genome' else f'has unit {unit}'}"

    def uncovered(self, part: str) -> pd.DataFrame:
        """Return the chunks without a frame of the genomes of one part, `val` or `test`.

        Raises:
            DataError: the split keeps none; the message says why.
        """
        if self.lacks_chunks:
            raise DataError(self.lacks_chunks)
        table = pd.read_parquet(self.directory / CHUNKS)
        return table[table["part"] == part].drop(columns="part").reset_index(drop=True)

    def frames(self, part: str) -> pd.DataFrame:
        """Return the rows of `table` of one part's frames, numbered anew, with plain strings."""
        return self.table.iloc[self.rows[part]].reset_index(drop=True).astype(dict.fromkeys(_REPEATED, "str"))

    def frame_ids(self, part: str) -> list[str]:
        """Return the ids of one part's frames, in the order of `table`."""
        return list(self.table["frame_id"].iloc[self.rows[part]])


def split(settings: SplitSettings) -> Split:
    """Assign the frames of a directory of frames or features, or return the split if it is already there.

    Raises:
        UsageError: no such directory, or fractions that leave a part without one of the classes.
        DataError: the source is unfinished or damaged, or the split there was made from something else.
    """
    source, out = Path(settings.source), Path(settings.out)
    parameters = {name: getattr(settings, name) for name in ("test_fraction", "val_fraction", "unit", "seed")}
    frames = _is_frames(source)
    digest = read_manifest(source, "frames").digest if frames else FeatureSet.open(source).digest
    inputs = {"frames" if frames else "features": digest}
    if frames and settings.unit == "genome" and has_manifest(source / UNCOVERED):
        inputs["uncovered"] = read_manifest(source / UNCOVERED, "chunks").digest
    with exclusive(out / ".lock"):
        if has_manifest(out):
            check_reusable(out, parameters, inputs, "split")
            return Split.open(out)
        remove_leftovers(out)
        for name in ("viral", "non_viral"):  # of a split that was stopped, perhaps with other parameters
            shutil.rmtree(out / name, ignore_errors=True)
        table, sequences, coverage = _from_frames(source) if frames else _from_features(source)
        assign(table, settings)
        _write(out, source, table, sequences, coverage, settings, inputs)
    return Split.open(out)


def assign(table: pd.DataFrame, settings: SplitSettings) -> None:
    """Fill the column `part` of a table of frames in place.

    Raises:
        UsageError: a part would hold no frame of one of the classes.
    """
    unit = {"genome": "genome", "file": "file", "frame": "frame_id"}[settings.unit]
    table["part"] = "train"
    for part, fraction in (("test", settings.test_fraction), ("val", settings.val_fraction)):
        for _, stratum in table.groupby(["label", "group"], sort=True):
            sizes = stratum.loc[stratum["part"] == "train", unit].value_counts()
            chosen = _nearest(sizes.to_dict(), fraction * len(stratum), f"{settings.seed}/{part}")
            table.loc[stratum.index[stratum[unit].isin(chosen) & (stratum["part"] == "train")], "part"] = part
    for part in PARTS:
        labels = set(table.loc[table["part"] == part, "label"])
        if labels != {0, 1}:
            which = "any frames" if not labels else "viral frames" if 0 in labels else "non-viral frames"
            raise UsageError(
                f"these fractions leave the {part} part without {which}: "
                f"change --test-fraction {settings.test_fraction}, --val-fraction {settings.val_fraction} "
                f"or --unit {settings.unit}, or add genomes of both classes"
            )


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


def _nearest(sizes: dict[str, int], target: float, salt: str) -> set[str]:
    """Take units in hashed order, each only if it brings the sum of sizes nearer to the target."""
    chosen, total = set(), 0
    for unit in sorted(sizes, key=lambda name: hashlib.blake2b(f"{salt}/{name}".encode()).digest()):
        if abs(total + sizes[unit] - target) < abs(total - target):
            chosen.add(unit)
            total += sizes[unit]
    return chosen


def _is_frames(source: Path) -> bool:
    if not source.is_dir():
        raise UsageError(f"{source}: no such directory; --source wants frames or a feature set")
    return (source / MANIFEST).is_file() and read_manifest(source, "frames", "features").kind == "frames"


def _from_frames(source: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the table, the sequences beside it and the counts of each genome's chunks."""
    manifest = read_manifest(source, "frames")
    genomes = pd.read_parquet(source / GENOMES)
    columns = ["frame_id", "record", "genome", "organism", "lineage", "group", "label", "nucleotide", "protein"]
    parts = [read_frames(path, columns).to_pandas().assign(file=path.name) for path in frame_shards(source)]
    table = pd.concat(parts, ignore_index=True)
    lengths = genomes.set_index("record")["length"].clip(upper=manifest.parameters["chunk_size"])
    table["length"] = table["record"].map(lengths)
    return table, table[["nucleotide", "protein"]], genomes


def _from_features(source: Path) -> tuple[pd.DataFrame, None, None]:
    """Return the table of a feature set, whose ids alone tell genome and chunk."""
    features = FeatureSet.open(source)
    parts = [
        pd.DataFrame(
            {
                "frame_id": shard.ids,
                "record": [_record_of(frame_id, shard.path) for frame_id in shard.ids],
                "organism": "",
                "lineage": "",
                "group": shard.path.parent.name.removesuffix("_merged"),
                "label": shard.label,
                "file": shard.path.relative_to(source).as_posix(),
                "length": 0,
            }
        )
        for shard in features.shards
    ]
    table = pd.concat(parts, ignore_index=True)
    genomes = {record: name_genome(record).name for record in table["record"].unique()}
    table["genome"] = table["record"].map(genomes)
    return table, None, None


def _record_of(frame_id: str, path: Path) -> str:
    record, separator, _ = frame_id.rpartition("_chunk_")
    if not separator:
        raise DataError(f"{path}: the id {frame_id!r} is not ACCESSION_chunk_K, so its record is not known")
    return record


def _write(
    out: Path,
    source: Path,
    table: pd.DataFrame,
    sequences: pd.DataFrame | None,
    genomes: pd.DataFrame | None,
    settings: SplitSettings,
    inputs: dict[str, str],
) -> None:
    assignments = table[list(COLUMNS)]
    metadata = describe_split(table, sequences, genomes, settings)
    metadata["digest"] = assignment_digest(pa.Table.from_pandas(assignments[["frame_id", "part"]]))
    with atomic_path(out / ASSIGNMENTS) as temporary:
        assignments.astype({"label": "int8"}).to_parquet(temporary, index=False)
    write_text(out / METADATA, json.dumps(metadata, indent=1) + "\n")
    written = [(out / ASSIGNMENTS, len(table)), (out / METADATA, 1)]
    if settings.unit == "file":
        _link_test_shards(out, source, table)
    elif sequences is not None:
        written += _write_test_sequences(out, table.assign(**{name: sequences[name] for name in sequences}))
    if "uncovered" in inputs:
        written.append(_write_uncovered(out, source, table))
    Manifest(
        kind="split",
        parameters={name: getattr(settings, name) for name in ("test_fraction", "val_fraction", "unit", "seed")},
        inputs=inputs,
        counts={
            "in": {"frames": len(table)},
            "out": {part: int((table["part"] == part).sum()) for part in PARTS},
            "dropped": {},
        },
        shards=tuple(describe_shard(out, path, rows) for path, rows in written),
        details={"split_digest": metadata["digest"]},
    ).write(out)


def _write_uncovered(out: Path, source: Path, table: pd.DataFrame) -> tuple[Path, int]:
    """Write the chunks without a frame of the genomes for validation and testing; training has no use for them."""
    part_of = table.drop_duplicates("genome").set_index("genome")["part"]
    kept = [pd.DataFrame(columns=[*CHUNK_SCHEMA.names, "part"])]
    for path in uncovered_shards(source):
        chunks = read_chunks(path).to_pandas()
        chunks["part"] = chunks["genome"].map(part_of)
        kept.append(chunks[chunks["part"].isin(["val", "test"])])
    schema = CHUNK_SCHEMA.append(pa.field("part", pa.string()))
    chosen = pa.Table.from_pandas(pd.concat(kept, ignore_index=True), schema=schema, preserve_index=False)
    with atomic_path(out / CHUNKS) as temporary:
        pq.write_table(chosen, temporary, compression="zstd")
    return out / CHUNKS, len(chosen)


def _write_test_sequences(out: Path, table: pd.DataFrame) -> list[tuple[Path, int]]:
    """Write the test frames as FASTA, DNA and protein, apart by label."""
    written = []
    for label, name in ((1, "viral"), (0, "non_viral")):
        chosen = table[(table["part"] == "test") & (table["label"] == label)]
        for column, suffix in (("nucleotide", "fna"), ("protein", "faa")):
            path = out / name / f"frames.{suffix}"
            text = "".join(f">{i}\n{s}\n" for i, s in zip(chosen["frame_id"], chosen[column], strict=True))
            write_text(path, text)
            written.append((path, len(chosen)))
    return written


def _link_test_shards(out: Path, source: Path, table: pd.DataFrame) -> None:
    """Link the test shards into `viral/` and `non_viral/`, as VirNucPro's own split does."""
    chosen = table[table["part"] == "test"].drop_duplicates("file")
    for file, label in zip(chosen["file"], chosen["label"], strict=True):
        link = out / ("viral" if label else "non_viral") / str(file).replace("/", "_")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((source / str(file)).resolve())
