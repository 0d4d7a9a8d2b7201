"""The frames of training and validation, located in a feature set and checked before the first step."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from virnuc.errors import DataError
from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import available_memory, derived_seed
from virnuc.splits.assignment import Split

_COPIED_AT_ONCE = 16_384  # frames in one copy to a GPU
_DEVICE_SHARE = 0.8  # of the GPU's free memory that features may take
ASSUMED_CHUNK_SIZE = 300  # bp, as in VirNucPro, whose files do not record it
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subset:
    """The n frames of one part of a split, in the order of the split, which need not be that of the shards."""

    features: FeatureSet
    columns: slice  # of the vectors
    rows: np.ndarray  # [n] int64, in the feature set
    labels: Tensor  # [n] int64
    sizes: tuple[tuple[int, int], ...] = ()  # chunk size (bp) and number of frames of each member, as in `rows`
    genomes: int = 0  # number of genomes of the split's frames
    resident: Tensor | None = None  # [n, width] float32, all vectors on a device; None: read from disk

    def __len__(self) -> int:
        return len(self.rows)

    def by_size(self, values: Tensor) -> list[tuple[int, Tensor]]:
        """Split `values`, `[n, ...]`, by the frames' chunk size in bp."""
        return list(
            zip([size for size, _ in self.sizes], values.split([count for _, count in self.sizes]), strict=True)
        )

    @property
    def width(self) -> int:
        """Number of values of a frame's vector."""
        return int(self.columns.stop - self.columns.start)

    def read(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return vectors `[m, width]` float32 and labels `[m]` int64 of the frames at `positions`, `[m]` int64."""
        if self.resident is not None:
            chosen = torch.from_numpy(positions).to(self.resident.device)
            return self.resident[chosen], self.labels[chosen]
        return self.features.gather(self.rows[positions], self.columns), self.labels[torch.from_numpy(positions)]

    def place(self, device: torch.device) -> Subset:
        """Return this part with all vectors and labels copied to `device`."""
        resident = torch.empty(len(self), self.width, device=device)
        for start in range(0, len(self), _COPIED_AT_ONCE):
            chosen = slice(start, start + _COPIED_AT_ONCE)
            resident[chosen] = self.features.gather(self.rows[chosen], self.columns).to(device)
        return replace(self, labels=self.labels.to(device), resident=resident)


@dataclass(frozen=True)
class TrainingData:
    """The frames that a training reads; test frames are not among them."""

    train: Subset
    val: Subset
    left_out: int = 0  # number of frames or readings of chunks whose genomes have no frame in the split

    @property
    def nbytes(self) -> int:
        """Size of all vectors in bytes."""
        return sum(len(part) * part.width * 4 for part in (self.train, self.val))


def match(features: FeatureSet, split: Split, modality: str, share: float = 1.0, seed: int = 0) -> TrainingData:
    """Return the frames for training and validation, located in the features.

    The first member of a mixture must hold exactly the frames of the split; frames of other members, and whole chunks,
    go to the part of their genome. With a `share` below 1, only that share of the training genomes of each class is
    kept, drawn by `seed`, so that a smaller share is a subset of a larger one.

    Raises:
        DataError: features and split have different frames or labels, a class is missing, or the features have no
            columns for `modality`.
    """
    columns = features.columns(modality)
    if columns.start == columns.stop:
        raise DataError(f"{features.directory}: it is not known which columns are {modality}; use --modality merged")
    if features.of_chunks and modality == "merged":
        raise DataError(f"{features.directory}: holds the DNA of chunks alone; use --modality dna")
    first, *others = features.members
    assigned = follow(first, split) if first.of_chunks else _same_frames(first, split)
    tables = [assigned, *(follow(other, split) for other in others)]
    left_out = sum(map(len, features.members)) - sum(map(len, tables))
    if share < 1:
        kept = _draw_genomes(split, share, seed)
        tables = [table[(table["part"] != "train") | table["genome"].isin(kept)] for table in tables]
    starts = [0, *np.cumsum([len(member) for member in features.members])]
    parts = {name: _part(features, columns, split, tables, starts, name) for name in ("train", "val")}
    return TrainingData(**parts, left_out=left_out)


def follow(features: FeatureSet, split: Split) -> pd.DataFrame:
    """Assign frames to the parts of their records in a split that was made from other chunks of the same genomes.

    Returns:
        A row for each frame of a genome in the split, ordered by id: `frame_id`, `label`, `row` (in the features),
        `record`, `genome`, `part`.

    Raises:
        DataError: the split does not keep records together, or has none of these.
    """
    records = split.records
    if not records.index.is_unique:
        raise DataError(f"{split.directory}: a mixture needs a split that keeps genomes together; use --unit genome")
    table = pd.DataFrame(
        {"frame_id": features.ids.to_pandas(), "label": features.labels, "row": np.arange(len(features))}
    )
    table["record"] = table["frame_id"].str.rsplit("_chunk_", n=1).str[0]
    table = table.join(records, on="record")
    known = table.dropna(subset="part").sort_values("frame_id", ignore_index=True)
    if known.empty:
        raise DataError(f"{features.directory} and the split {split.directory} have no genome in common")
    return known


def _part(
    features: FeatureSet, columns: slice, split: Split, tables: list[pd.DataFrame], starts: list[int], name: str
) -> Subset:
    """Return the part `name` of all members of a feature set.

    `tables` have `part`, `row` and `genome` of each member's frames, `starts` the members' first rows in the features.
    """
    found = [table.loc[table["part"] == name, "row"].to_numpy() for table in tables]
    rows = np.concatenate([own + start for own, start in zip(found, starts, strict=False)])
    sizes = tuple((member.chunk_size, len(own)) for member, own in zip(features.members, found, strict=True))
    genomes = tables[0].loc[tables[0]["part"] == name, "genome"].nunique()
    part = Subset(features, columns, rows, torch.from_numpy(features.labels[rows].astype(np.int64)), sizes, genomes)
    for size, labels in part.by_size(part.labels):
        if len(labels.unique()) < 2:
            which = f" of {size} bp" if len(sizes) > 1 else ""
            raise DataError(f"{split.directory}: the {name} part has {len(labels)} frames{which}, not of both classes")
    return part


def _same_frames(features: FeatureSet, split: Split) -> pd.DataFrame:
    """Return `part`, `row` and `genome` of each frame of the split; raise a DataError if the features have others."""
    if len(features) != len(split.table):
        raise DataError(
            f"{features.directory} has {len(features)} frames, but the split {split.directory} has {len(split.table)}; "
            "features and split were not made from the same frames"
        )
    rows = features.locate(split.table["frame_id"])
    _check_labels(features, split, rows)
    return pd.DataFrame({"part": split.table["part"], "row": rows, "genome": split.table["genome"]})


def _draw_genomes(split: Split, share: float, seed: int) -> set[str]:
    """Return a share of the training genomes of each class, at least one: those whose hashes with `seed` are lowest."""
    genomes = split.table[split.table["part"] == "train"].drop_duplicates("genome")[["genome", "label"]]
    ranks = [derived_seed(seed, "share", genome) for genome in genomes["genome"]]
    by_label = genomes.iloc[np.argsort(ranks)].groupby("label")["genome"]
    return {genome for _, own in by_label for genome in own.iloc[: math.ceil(share * len(own))]}


def chunk_size_of(features: FeatureSet, split: Split) -> tuple[int, bool]:
    """Return the chunk size in bp, and whether it is recorded (or else assumed)."""
    recorded = features.chunk_size or int(split.table["length"].max())
    return recorded or ASSUMED_CHUNK_SIZE, bool(recorded)


def fits_on(parts: TrainingData, device: torch.device) -> bool:
    """Return whether a GPU has room for all vectors; false for a CPU, which reads them from disk as needed."""
    return device.type == "cuda" and parts.nbytes <= _DEVICE_SHARE * available_memory(str(device))


def place_if_it_fits(parts: TrainingData, device: torch.device) -> TrainingData:
    """Return the parts with their vectors on the GPU if it has room for them; else unchanged, to be read in batches."""
    if device.type != "cuda":
        return parts
    free = available_memory(str(device))
    fits = fits_on(parts, device)
    how = "kept on the GPU" if fits else "streamed to the GPU"
    _log.info("%.1f GiB of features %s, which has %.1f GiB free", parts.nbytes / 2**30, how, free / 2**30)
    return replace(parts, train=parts.train.place(device), val=parts.val.place(device)) if fits else parts


def _check_labels(features: FeatureSet, split: Split, rows: np.ndarray) -> None:
    """Raise a DataError if labels of the split's frames, `rows` of the features, differ between the two."""
    differing = np.flatnonzero(features.labels[rows] != split.table["label"].to_numpy())
    if len(differing):
        frame = split.table["frame_id"].iloc[int(differing[0])]
        raise DataError(
            f"{len(differing)} frames have one label in {features.directory} and the other in {split.directory}, "
            f"the first is {frame}; make the split again"
        )
