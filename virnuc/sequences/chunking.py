"""Cutting a sequence into chunks of one size that cover it from end to end."""

from __future__ import annotations

import numpy as np


def chunk_starts(length: int, size: int) -> np.ndarray:
    """Return where the chunks of a sequence start, as int64 `[ceil(length / size)]`, from 0, in order.

    All chunks are exactly `size` bp long (one of `length` bp if the sequence is shorter); the first starts at
    0, the last ends at `length`, and the starts are spread evenly, so neighbours overlap rather than leave a
    shorter last chunk.
    """
    count = -(-length // size)
    return np.arange(count, dtype=np.int64) * (length - size) // max(1, count - 1)


def chunk_many(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the `chunk_starts` of many sequences: sequence, number from 0, and start of each chunk, int64 `[chunks]`.

    Args:
        lengths: of the sequences, int64 `[n]`.
        size: of a chunk, bp.
    """
    counts = -(-lengths // size)
    of = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(of)) - (np.cumsum(counts) - counts)[of]
    return of, number, number * (lengths[of] - size) // np.maximum(1, counts - 1)[of]
