"""Batches without padding: sequences end to end, attention within runs of equal length.

Linear layers, norms and activations see [tokens, width] and never a padding token. Only attention needs the
sequences apart; because a batch is sorted by length, it is computed for each run of equally long sequences at
once, without a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from virnuc.encoders.batching import to_device

_MAX_BIASES = 2**26  # values of ALiBi at a time: bounds the memory of one very long sequence


@dataclass(frozen=True)
class Run:
    """`count` sequences of `length` tokens each, the first token at `start`."""

    start: int
    count: int
    length: int

    @property
    def tokens(self) -> slice:
        """Where the run's tokens are in the batch."""
        return slice(self.start, self.start + self.count * self.length)


@dataclass(frozen=True)
class Packing:
    """Which tokens of a batch belong together."""

    runs: tuple[Run, ...]
    positions: Tensor  # [tokens] int64, place of each token in its sequence, on the device

    @classmethod
    def of_lengths(cls, lengths: np.ndarray, device: torch.device) -> Packing:
        """Describe a batch of sequences of `lengths` tokens, equal ones beside each other."""
        starts = np.concatenate([[0], np.cumsum(lengths)])
        changes = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
        runs = tuple(Run(int(starts[first]), last - first, int(lengths[first])) for first, last in pairwise(changes))
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        return cls(runs, to_device(positions, device))


def attend(query: Tensor, key: Tensor, value: Tensor, packing: Packing, slopes: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of each sequence with itself.

    Args:
        query: [tokens, heads, head_width], like `key` and `value`.
        key: see `query`.
        value: see `query`.
        packing: which tokens form a sequence.
        slopes: [heads] float32; each score loses slope * distance (symmetric ALiBi).

    Returns:
        [tokens, heads * head_width].
    """
    attended = torch.empty_like(query, memory_format=torch.contiguous_format)
    for run in packing.runs:
        shape = (run.count, run.length, *query.shape[1:])
        q, k, v = (part[run.tokens].unflatten(0, shape[:2]).transpose(1, 2) for part in (query, key, value))
        output = attended[run.tokens].view(shape).transpose(1, 2)
        rows = run.length if slopes is None else max(1, _MAX_BIASES // (run.length * len(slopes)))
        for first in range(0, run.length, rows):
            part = slice(first, first + rows)
            bias = None if slopes is None else _alibi(slopes, part, run.length, query.dtype)
            output[:, :, part] = functional.scaled_dot_product_attention(q[:, :, part], k, v, attn_mask=bias)
    return attended.flatten(1)


def _alibi(slopes: Tensor, rows: slice, length: int, dtype: torch.dtype) -> Tensor:
    """Return -slope * |i - j| for the queries `rows`, [1, heads, rows, length]."""
    places = torch.arange(length, device=slopes.device)
    distances = (places[rows, None] - places[None, :]).abs()
    return (slopes[:, None, None] * -distances).to(dtype)[None]


def mean_of_sequences(states: Tensor, packing: Packing, skip_ends: bool) -> Tensor:
    """Return the mean over each sequence's tokens, [sequences, width] float32, accumulated in float32.

    `skip_ends` leaves out the first and last token, ESM's <cls> and <eos>.
    """
    means = []
    for run in packing.runs:
        tokens = states[run.tokens].unflatten(0, (run.count, run.length))
        means.append((tokens[:, 1:-1] if skip_ends else tokens).mean(dim=1, dtype=torch.float32))
    return torch.cat(means)
