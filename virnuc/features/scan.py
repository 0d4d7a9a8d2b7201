"""The scan of a feature set: every byte hashed and every value checked, each time it is opened.

Reading a set once takes about as long as one epoch of training on it. A remembered result would miss what size and
time of change do not show: a flipped bit, or a file put back with its old time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from virnuc.errors import DataError
from virnuc.features.shards import FeatureShard
from virnuc.runtime import Progress, counted
from virnuc.storage.files import sha256_file

_ROWS_AT_ONCE = 1024


def scan(directory: Path, shards: Sequence[FeatureShard], progress: Progress) -> dict[str, str]:
    """Return the SHA-256 of each shard by its path relative to `directory`, having checked all values.

    Raises:
        DataError: a value is NaN or infinite; the message names file, row and frame.
    """
    shown = counted(shards, len(shards), "scan", progress)
    return {shard.path.relative_to(directory).as_posix(): _scan(shard) for shard in shown}


def _scan(shard: FeatureShard) -> str:
    for start in range(0, len(shard.data), _ROWS_AT_ONCE):
        finite = torch.isfinite(shard.data[start : start + _ROWS_AT_ONCE])
        if not finite.all():
            row, column = (int(value) for value in (~finite).nonzero()[0])
            value = float(shard.data[start + row, column])
            raise DataError(
                f"{shard.path}, row {start + row}: {value} at column {column} (frame {shard.ids[start + row]}); "
                "extract this file again"
            )
    return sha256_file(shard.path)
