"""The order of the frames in an epoch, and the reading of batches in that order.

Threads read many batches at a time while the training steps on earlier ones are made. The order depends only on the
seed, the epoch and the split, not on the shards or the number of readers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from virnuc.runtime import Choice, available_memory, derived_seed
from virnuc.training.data import Subset, TrainingData, fits_on

FULL, BLOCK = "full", "block"
_READ_BYTES = {FULL: 16 * 2**20, BLOCK: 128 * 2**20}  # of vectors in one read; several reads are in memory at once
_BLOCK_ROWS = 256  # rows of a block when blocks are shuffled: 2 MB of 2048-d vectors
_CACHE_SHARE = 0.8  # of the available memory; features within it are expected to stay in the page cache


@dataclass(frozen=True)
class Plan:
    """How an epoch over `rows` frames is cut into batches; a single remaining row joins the batch before it."""

    rows: int
    batch: int  # rows
    read: int  # rows, in whole batches; with block shuffling also the window within which rows are shuffled
    shuffle: str  # full: a random permutation of all rows; block: of blocks, then of the rows within each window

    @classmethod
    def make(cls, part: Subset, batch: int, shuffle: str) -> Plan:
        """Return the plan for `part` with batches of `batch` rows; chooses how much to read at once."""
        read = max(1, _READ_BYTES[shuffle] // (part.width * 4 * batch)) * batch
        return cls(len(part), batch, read, shuffle)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the positions of the frames in the order of this epoch, `[rows]` int64."""
        generator = np.random.default_rng(derived_seed(seed, "order", epoch))
        if self.shuffle == FULL:
            return generator.permutation(self.rows)
        blocks = np.split(np.arange(self.rows), range(_BLOCK_ROWS, self.rows, _BLOCK_ROWS))
        mixed = np.concatenate([blocks[block] for block in generator.permutation(len(blocks))])
        for window in np.split(mixed, range(self.read, self.rows, self.read)):
            generator.shuffle(window)  # a view, so this shuffles `mixed`
        return mixed

    @property
    def reads(self) -> list[slice]:
        """The slice of the order that each read takes."""
        return _cut(self.rows, self.read)

    def batches(self, rows: int) -> list[slice]:
        """Return the slices of the batches within a read of `rows` rows."""
        return _cut(rows, self.batch)


def choose_shuffle(wanted: str, parts: TrainingData, device: torch.device) -> Choice:
    """Return `full` or `block`, and why; `auto` chooses `full` if all features fit into the memory of GPU or host."""
    if wanted != "auto":
        return Choice(wanted, "asked for")
    if fits_on(parts, device):
        return Choice(FULL, f"auto: {parts.nbytes / 2**30:.1f} GiB of features are kept on {device}")
    available = available_memory()
    sizes = f"{parts.nbytes / 2**30:.1f} GiB of features, {available / 2**30:.1f} GiB of memory available"
    return Choice(FULL if parts.nbytes <= _CACHE_SHARE * available else BLOCK, f"auto: {sizes}")


def read_ahead(part: Subset, order: np.ndarray, reads: list[slice], readers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield vectors `[m, width]` and labels `[m]` of each read, in order; `readers` threads prepare the next ones."""
    with ThreadPoolExecutor(readers, thread_name_prefix="reader") as pool:
        ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()
        for piece in reads:
            ahead.append(pool.submit(part.read, order[piece]))
            if len(ahead) > readers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _cut(rows: int, size: int) -> list[slice]:
    """Cut `rows` into slices of `size`; a single last row joins the slice before it, as batch norm needs two rows."""
    starts = list(range(0, rows, size))
    if len(starts) > 1 and rows - starts[-1] == 1:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], rows], strict=True)]
