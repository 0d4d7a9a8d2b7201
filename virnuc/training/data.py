"""The frames of a split's parts, found in a feature set and checked against it before the first step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from virnuc.errors import DataError
from virnuc.features.feature_set import FeatureSet
from virnuc.splitting import Split


@dataclass(frozen=True)
class Part:
    """The frames of one part, in the order of the split, whatever the order of the shards."""

    features: FeatureSet
    columns: slice  # of the vectors
    rows: np.ndarray  # [n] int64, in the feature set
    labels: Tensor  # [n] int64

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: np.ndarray | slice) -> tuple[Tensor, Tensor]:
        """Copy vectors `[m, width]` float32 and labels `[m]` int64 of some positions into memory."""
        return self.features.gather(self.rows[positions], self.columns), self.labels[positions]


def match(features: FeatureSet, split: Split, modality: str) -> dict[str, Part]:
    """Return the parts `train` and `val` of the split, found in the features.

    Raises:
        DataError: features and split do not hold the same frames, their labels differ, or a class is missing.
    """
    if len(features) != len(split.table):
        raise DataError(
            f"{features.directory} has {len(features)} frames, but the split {split.directory} has {len(split.table)}; "
            "features and split were not made from the same frames"
        )
    rows = features.locate(split.table["frame_id"])
    _check_labels(features, split, rows)
    columns = features.columns(modality)
    if columns.start == columns.stop:
        raise DataError(f"{features.directory}: it is not known which columns are {modality}; use --modality merged")
    assigned = split.table["part"].to_numpy()
    parts = {}
    for name in ("train", "val"):
        chosen = rows[assigned == name]
        labels = torch.from_numpy(features.labels[chosen].astype(np.int64))
        if len(labels.unique()) < 2:
            raise DataError(f"{split.directory}: the {name} part has {len(chosen)} frames, not of both classes")
        parts[name] = Part(features, columns, chosen, labels)
    return parts


def _check_labels(features: FeatureSet, split: Split, rows: np.ndarray) -> None:
    differing = np.flatnonzero(features.labels[rows] != split.table["label"].to_numpy())
    if len(differing):
        frame = split.table["frame_id"].iloc[int(differing[0])]
        raise DataError(
            f"{len(differing)} frames have one label in {features.directory} and the other in {split.directory}, "
            f"the first is {frame}; make the split again"
        )
