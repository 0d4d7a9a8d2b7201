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
    halves = np.concatenate([*hashes, np.zeros((0, 2), dtype=np.uint64)]).T
    order = np.lexsort(halves)  # stable: copies stay in the order of the frames
    begins = np.ones(len(order), dtype=bool)  # the first of identical frames
    begins[1:] = False
    for half in halves:
        values = half[order]
        begins[1:] |= values[1:] != values[:-1]
    starts = np.flatnonzero(begins)
    viral = np.repeat(np.array(labels, dtype=bool), rows)[order]
    mixed = np.logical_or.reduceat(viral, starts) & np.logical_or.reduceat(~viral, starts)
    both = np.repeat(mixed, np.diff(starts, append=len(order)))
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
