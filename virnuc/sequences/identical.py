"""Identical frames: the same DNA is kept once, and not at all if it occurs in both classes.

Copies would count several times in training, and could be in training and test at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc.sequences.frames import read_frames
from virnuc.sequences.staging import write_parquet


def find_identical(hashes: Sequence[np.ndarray], labels: Sequence[int]) -> tuple[list[np.ndarray], dict[str, int]]:
    """Return which frames of each shard to drop, bool `[rows]`, and how many by reason, if there are any.

    Args:
        hashes: of the frames' DNA, uint64 `[rows, 2]`, shard by shard.
        labels: of the shards.
    """
    rows = [len(part) for part in hashes]
    first, second = np.concatenate([*hashes, np.zeros((0, 2), dtype=np.uint64)]).T
    order = np.lexsort((second, first))  # stable: copies stay in the order of the frames
    first, second, label = first[order], second[order], np.repeat(labels, rows)[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(order))
    viral = np.add.reduceat(label, starts) if len(order) else label
    both = np.repeat((viral > 0) & (viral < ends - starts), ends - starts)
    drop = np.empty(len(order), dtype=bool)
    drop[order] = both | ~begins
    counts = {"frames_in_both_classes": int(both.sum()), "frames_identical": int((~begins & ~both).sum())}
    return np.split(drop, np.cumsum(rows)[:-1]), {reason: count for reason, count in counts.items() if count}


def drop_identical(shards: Sequence[Path], drop: Sequence[np.ndarray]) -> None:
    """Rewrite the shards without the frames to drop, except those that an earlier run has rewritten."""
    for shard, which in zip(shards, drop, strict=True):
        if which.any():
            table = read_frames(shard)
            if table.num_rows == len(which):
                write_parquet(shard, table.filter(pa.array(~which)))
