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
    if count <= 1:
        return np.zeros(count, dtype=np.int64)
    return np.arange(count, dtype=np.int64) * (length - size) // (count - 1)
