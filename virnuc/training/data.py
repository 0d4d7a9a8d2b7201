"""The frames of a split's parts, found in a feature set and checked against it before the first step."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from virnuc.errors import DataError
from virnuc.features.feature_set import FeatureSet
from virnuc.splitting import Split

_COPIED_AT_ONCE = 16_384  # frames
_DEVICE_SHARE = 0.8  # of the GPU's free memory that features may take
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """The frames of one part, in the order of the split, whatever the order of the shards."""

    features: FeatureSet
    columns: slice  # of the vectors
    rows: np.ndarray  # [n] int64, in the feature set
    labels: Tensor  # [n] int64
    resident: Tensor | None = None  # [n, width] float32, all vectors on a device, where they fit

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """Values a frame."""
        return int(self.columns.stop - self.columns.start)

    def read(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return vectors `[m, width]` float32 and labels `[m]` int64 of some positions, int64."""
        if self.resident is not None:
            chosen = torch.from_numpy(positions).to(self.resident.device)
            return self.resident[chosen], self.labels[chosen]
        return self.features.gather(self.rows[positions], self.columns), self.labels[torch.from_numpy(positions)]

    def place(self, device: torch.device) -> Part:
        """Return this part with all its vectors on `device`."""
        resident = torch.empty(len(self), self.width, device=device)
        for start in range(0, len(self), _COPIED_AT_ONCE):
            chosen = slice(start, start + _COPIED_AT_ONCE)
            resident[chosen] = self.features.gather(self.rows[chosen], self.columns).to(device)
        return replace(self, labels=self.labels.to(device), resident=resident)


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


def place_if_it_fits(parts: dict[str, Part], device: torch.device) -> dict[str, Part]:
    """Return the parts with their vectors on a GPU that has room for them; else as they are, to be streamed."""
    if device.type != "cuda":
        return parts
    needed = sum(len(part) * part.width * 4 for part in parts.values())
    free, _ = torch.cuda.mem_get_info(device)
    fits = needed <= _DEVICE_SHARE * free
    how = "kept on the GPU" if fits else "streamed to the GPU"
    _log.info("%.1f GiB of features %s, which has %.1f GiB free", needed / 2**30, how, free / 2**30)
    return {name: part.place(device) for name, part in parts.items()} if fits else parts


def _check_labels(features: FeatureSet, split: Split, rows: np.ndarray) -> None:
    differing = np.flatnonzero(features.labels[rows] != split.table["label"].to_numpy())
    if len(differing):
        frame = split.table["frame_id"].iloc[int(differing[0])]
        raise DataError(
            f"{len(differing)} frames have one label in {features.directory} and the other in {split.directory}, "
            f"the first is {frame}; make the split again"
        )
