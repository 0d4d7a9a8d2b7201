"""A feature set: the vectors of all frames for one pair of encoders, spread over many shards.

Opening one reads every shard's ids, checks that the shards fit together and scans them (see `scan`). The
vectors stay on disk: a row is copied into memory when it is gathered. VirNucPro's own directories have no manifest;
their encoders can only be inferred from the width of the vectors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from virnuc.errors import DataError, DimensionError, UsageError
from virnuc.features.scan import scan
from virnuc.features.shards import FeatureShard, read_shard, storage_of
from virnuc.runtime import Progress, silent
from virnuc.storage.manifest import Manifest, Shard, has_manifest, read_manifest

# VirNucPro joins DNABERT-S with one of two protein encoders: dimensions by width of the merged vectors.
VIRNUCPRO_WIDTHS = {3328: ("dnabert_s", 768, "esm2_3b", 2560), 2048: ("dnabert_s", 768, "fastesm650", 1280)}
NO_PROTEIN = "none"  # stands for the protein encoder in the features of chunks
_OUR_SHARD = re.compile(r"output_0\d{4}_merged\.pt")  # VirNucPro counts from 1, without leading zeros


@dataclass(frozen=True)
class FeatureSet:
    """An opened, checked feature set. Rows are counted through all shards, in the order of the manifest."""

    directory: Path
    shards: tuple[FeatureShard, ...]
    manifest: Manifest  # made in memory for VirNucPro's own directories
    mixed: tuple[FeatureSet, ...] = ()  # of a mixture: the feature sets that it consists of

    @classmethod
    def open(cls, directory: Path, progress: Progress = silent) -> FeatureSet:
        """Open and check the feature set in `directory`.

        Args:
            directory: of this project (with a manifest) or of VirNucPro (without one).
            progress: told how many files are scanned.

        Raises:
            UsageError: there is no such directory.
            DataError: it is unfinished, a file is missing, damaged or changed, an id occurs twice, or a value is NaN or
                infinite; the message names file and row.
            DimensionError: the shards have different widths, or not the manifest's.
        """
        if not directory.is_dir():
            raise UsageError(f"{directory}: no such directory; --features needs one that extract wrote")
        manifest = read_manifest(directory, "features") if has_manifest(directory) else None
        paths = _virnucpro_files(directory) if manifest is None else [directory / s.path for s in manifest.shards]
        storage = storage_of({} if manifest is None else manifest.details)
        shards = tuple(read_shard(path, storage) for path in paths)
        _check_widths(shards, manifest)
        _check_unique(shards)
        digests = scan(directory, shards, progress)
        if manifest is None:
            manifest = _virnucpro_manifest(shards, digests)
        _check_digests(directory, manifest, shards, digests)
        return cls(directory, shards, manifest)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def digest(self) -> str:
        """Identity of the content."""
        return self.manifest.digest

    def digest_of(self, modality: str) -> str:
        """Return the digest of one modality: of an encoder's half if it is recorded, else of the whole."""
        return self.manifest.inputs.get(modality, self.digest)

    @property
    def dimension(self) -> int:
        """Width of a vector, d."""
        return int(self.shards[0].data.shape[1])

    @property
    def dna_dim(self) -> int:
        """Number of leading columns that come from the DNA encoder."""
        return int(self.manifest.details["dna_dim"])

    @property
    def protein_dim(self) -> int:
        """Number of trailing columns that come from the protein encoder."""
        return int(self.manifest.details["protein_dim"])

    @property
    def chunk_size(self) -> int:
        """Length in bp of the chunks that were embedded; 0 if it was not recorded."""
        return int(self.manifest.details.get("chunk_size", 0))

    @property
    def of_chunks(self) -> bool:
        """Whether these are vectors of the DNA of chunks (see `EncoderSpec.readings`) instead of frames."""
        return bool(self.encoders["protein"]["name"] == NO_PROTEIN)

    @property
    def members(self) -> tuple[FeatureSet, ...]:
        """The feature sets that make up this one: only itself, unless it is a mixture."""
        return self.mixed or (self,)

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """Provenance of the encoders, by `dna` and `protein`."""
        return {kind: self.manifest.details[kind] for kind in ("dna", "protein")}

    @cached_property
    def labels(self) -> np.ndarray:
        """The label of each row, `[n]` int8."""
        return np.concatenate([np.full(len(shard.data), shard.label, np.int8) for shard in self.shards])

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        """The frame id of each row."""
        return pa.chunked_array([shard.packed_ids for shard in self.shards])

    def columns(self, modality: str) -> slice:
        """Return which columns of a vector belong to `merged`, `dna` or `protein`."""
        return {
            "merged": slice(0, self.dimension),
            "dna": slice(0, self.dna_dim),
            "protein": slice(self.dna_dim, self.dimension),
        }[modality]

    def locate(self, frame_ids: Sequence[str]) -> np.ndarray:
        """Return the row of each frame, `[len(frame_ids)]` int64.

        Raises:
            DataError: a frame is not in this feature set.
        """
        wanted = pa.array(frame_ids, pa.string())
        found = pc.index_in(wanted, value_set=self.ids)
        pa.default_memory_pool().release_unused()
        if found.null_count:
            first = wanted[pc.index(found.is_null(), True).as_py()].as_py()
            raise DataError(
                f"{self.directory}: {found.null_count} of {len(wanted)} frames are missing, the first is {first}; "
                "features and split were not made from the same frames"
            )
        return found.to_numpy(zero_copy_only=False).astype(np.int64)

    def gather(self, rows: np.ndarray, columns: slice | None = None) -> Tensor:
        """Copy rows into memory.

        Each shard is read in ascending order, so that rows that are neighbours on disk are read together. Nothing
        here uses torch's thread pool, so that it can run during a training step without taking its threads.

        Args:
            rows: row numbers, int64, in any order.
            columns: the columns wanted; all by default.

        Returns:
            `[len(rows), width]` float32, in the order of `rows`.
        """
        columns = columns or slice(0, self.dimension)
        gathered = torch.empty(len(rows), columns.stop - columns.start)
        target = gathered.numpy()
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        bounds = np.searchsorted(ascending, np.concatenate([[0], self._ends]))
        for shard, array in enumerate(self._arrays):
            low, high = bounds[shard], bounds[shard + 1]
            if low < high:
                first = self._ends[shard] - len(array)
                target[order[low:high]] = array[ascending[low:high] - first, columns]
        return gathered

    @cached_property
    def _ends(self) -> np.ndarray:
        """The row after the last of each shard."""
        return np.cumsum([len(shard.data) for shard in self.shards])

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        return [shard.data.numpy() for shard in self.shards]


def _virnucpro_files(directory: Path) -> list[Path]:
    """Return the shards of a directory without a manifest, `output_2` before `output_10`."""
    paths = list(directory.rglob("*.pt"))
    if not paths:
        raise DataError(f"{directory}: no manifest.json and no *.pt files; it is empty or not a feature set")
    if any(_OUR_SHARD.fullmatch(path.name) for path in paths):
        raise DataError(f"{directory}: its extraction was not finished; run extract again with the same parameters")
    return sorted(
        paths, key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]
    )


def virnucpro_encoders(width: int) -> dict[str, dict[str, Any]]:
    """Return the encoders of VirNucPro's vectors of this width, `unknown` ones if it is not one of its widths."""
    dna, dna_dim, protein, protein_dim = VIRNUCPRO_WIDTHS.get(width, ("unknown", 0, "unknown", width))
    return {
        "dna": {"name": dna, "dimension": dna_dim, "weights": "unrecorded"},
        "protein": {"name": protein, "dimension": protein_dim, "weights": "unrecorded"},
    }


def _virnucpro_manifest(shards: Sequence[FeatureShard], digests: dict[str, str]) -> Manifest:
    encoders = virnucpro_encoders(int(shards[0].data.shape[1]))
    return Manifest(
        kind="features",
        parameters={},
        inputs={},
        counts={"in": {}, "out": {"frames": sum(len(shard.data) for shard in shards)}, "dropped": {}},
        shards=tuple(
            Shard(name, len(shard.data), digest) for shard, (name, digest) in zip(shards, digests.items(), strict=True)
        ),
        details=encoders | {f"{kind}_dim": encoder["dimension"] for kind, encoder in encoders.items()},
    )


def _check_widths(shards: Sequence[FeatureShard], manifest: Manifest | None) -> None:
    first = shards[0]
    for shard in shards:
        if shard.data.shape[1] != first.data.shape[1]:
            raise DimensionError(
                f"{shard.path}: vectors of {shard.data.shape[1]} values, but {first.path} has {first.data.shape[1]}"
            )
    if manifest is not None:
        for kind in ("dna", "protein"):
            own, stated = manifest.details[kind].get("dimension"), manifest.details[f"{kind}_dim"]
            if own != stated:
                raise DimensionError(
                    f"{first.path}: the {kind} encoder gives {own} values, not {stated} as the manifest says"
                )
        stated = manifest.details["dna_dim"] + manifest.details["protein_dim"]
        if stated != first.data.shape[1]:
            raise DimensionError(
                f"{first.path}: vectors of {first.data.shape[1]} values, but the manifest says {stated}"
            )


def _check_unique(shards: Sequence[FeatureShard]) -> None:
    ids = pa.chunked_array([shard.packed_ids for shard in shards])
    distinct = pc.count_distinct(ids).as_py()
    pa.default_memory_pool().release_unused()  # 200 MB of a hash table, for two million ids
    if distinct == len(ids):
        return
    seen: dict[str, str] = {}
    for shard in shards:
        for row, identifier in enumerate(shard.ids):
            where = f"{shard.path}, row {row}"
            if identifier in seen:
                raise DataError(f"{where}: the id {identifier} is already that of {seen[identifier]}")
            seen[identifier] = where


def _check_digests(
    directory: Path, manifest: Manifest, shards: Sequence[FeatureShard], digests: dict[str, str]
) -> None:
    for stated, shard in zip(manifest.shards, shards, strict=True):
        if digests[stated.path] != stated.sha256 or len(shard.data) != stated.rows:
            raise DataError(f"{shard.path}: changed since it was written; delete {directory} and run extract again")
