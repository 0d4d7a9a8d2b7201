"""Batches without padding: sequences are concatenated, and attention is computed within each.

Linear layers, norms and activations work on [tokens, width] without any padding. Only attention has to know where
sequences begin. On a GPU torch's kernels for sequences of different lengths take the whole batch in one call. Elsewhere
each run of equally long sequences, which are adjacent as batches are sorted by length, is one call without a mask.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from virnuc.encoders.batching import to_device

_MAX_BIASES = 2**26  # values of an ALiBi mask; bounds the memory that a very long sequence takes
_TEST_LENGTHS = np.array([130, 130, 66, 33, 1])  # tokens of the sequences that a kernel is tested on
_TOLERANCE = 0.02  # share of the largest value, for bf16; a wrong mask or wrong slopes give 0.1 or more
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """`count` adjacent sequences of `length` tokens each; the first begins at token `start` of the batch."""

    start: int
    count: int
    length: int

    @property
    def tokens(self) -> slice:
        """The run's tokens in the batch."""
        return slice(self.start, self.start + self.count * self.length)


@dataclass(frozen=True)
class Packing:
    """Which tokens of a batch form a sequence."""

    runs: tuple[Run, ...]
    positions: Tensor  # [tokens] int64 on the device, each token's position in its sequence, from 0
    bounds: Tensor  # [sequences + 1] int32 on the device, where each sequence begins and the last one ends

    @property
    def longest(self) -> int:
        """Number of tokens of the longest sequence."""
        return max(run.length for run in self.runs)

    @classmethod
    def of_lengths(cls, lengths: np.ndarray, device: torch.device) -> Packing:
        """Describe a batch of sequences of `lengths` tokens, [sequences] integers, equal ones adjacent."""
        starts = np.concatenate([[0], np.cumsum(lengths)])
        changes = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
        runs = tuple(Run(int(starts[first]), last - first, int(lengths[first])) for first, last in pairwise(changes))
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        return cls(runs, to_device(positions, device), to_device(starts.astype(np.int32), device))


def attend(query: Tensor, key: Tensor, value: Tensor, packing: Packing, slopes: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of each sequence with itself.

    Args:
        query: [tokens, heads, head_width], like `key` and `value`.
        key: see `query`.
        value: see `query`.
        packing: which tokens form a sequence.
        slopes: [heads] float32, for symmetric ALiBi: slope * distance is subtracted from each score.

    Returns:
        [tokens, heads * head_width], of the dtype of `query`.
    """
    if varlen_is_right(query.device, query.dtype, query.shape[-1], slopes is not None):
        return _attend_at_once(query, key, value, packing, slopes).flatten(1)
    return _attend_by_runs(query, key, value, packing, slopes).flatten(1)


@cache
def varlen_is_right(device: torch.device, dtype: torch.dtype, head_width: int, alibi: bool) -> bool:
    """Return whether one call for all sequences agrees with one call for each run on this device; tested once."""
    if device.type != "cuda":
        return False  # torch has these kernels for GPUs only
    return _agrees(device, dtype, head_width, alibi)


def _agrees(device: torch.device, dtype: torch.dtype, head_width: int, alibi: bool) -> bool:
    """Compare both ways on random tensors; log a warning where they differ."""
    packing = Packing.of_lengths(_TEST_LENGTHS, device)
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, int(_TEST_LENGTHS.sum()), 2, head_width, generator=generator).to(device, dtype)
    slopes = torch.tensor([0.5, 0.01], device=device) if alibi else None
    expected = _attend_by_runs(query.float(), key.float(), value.float(), packing, slopes)
    try:
        found = _attend_at_once(query, key, value, packing, slopes)
        distance = float((found - expected).abs().max() / expected.abs().max())
        right = distance <= _TOLERANCE
        reason = f"differs by {distance:.1e}"
    except RuntimeError as error:
        right, reason = False, str(error).partition("\n")[0]
    if not right:
        what = f"{str(dtype).removeprefix('torch.')}{' with ALiBi' if alibi else ''} on {device}"
        _log.warning("attention in %s goes run by run, as torch's kernel for any lengths %s", what, reason)
    return right


def _attend_at_once(query: Tensor, key: Tensor, value: Tensor, packing: Packing, slopes: Tensor | None) -> Tensor:
    """Return [tokens, heads, head_width] by the kernels under torch's `varlen_attn`, which itself takes no slopes.

    Flash attention takes fp16 and bf16, with ALiBi if wanted (-slope * |i - j| where attention is not causal, see its
    alibi.h); the memory-efficient kernel takes fp32. Both accept query, key and value as views of one tensor.
    """
    bounds, longest = packing.bounds, packing.longest
    if query.dtype is torch.float32 and slopes is None:
        one = (part.unsqueeze(0) for part in (query, key, value))
        result = torch.ops.aten._efficient_attention_forward(*one, None, bounds, bounds, longest, longest, 0.0, 0)
        return result[0].squeeze(0)
    result = torch.ops.aten._flash_attention_forward(
        query, key, value, bounds, bounds, longest, longest, 0.0, False, False, alibi_slopes=slopes
    )
    return result[0]


def _attend_by_runs(query: Tensor, key: Tensor, value: Tensor, packing: Packing, slopes: Tensor | None) -> Tensor:
    """Return [tokens, heads, head_width] by one call for each run of equally long sequences."""
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
    return attended


def _alibi(slopes: Tensor, rows: slice, length: int, dtype: torch.dtype) -> Tensor:
    """Return -slope * |i - j| for the queries `rows` and all keys, [1, heads, rows, length]."""
    places = torch.arange(length, device=slopes.device)
    distances = (places[rows, None] - places[None, :]).abs()
    return (slopes[:, None, None] * -distances).to(dtype)[None]


def mean_of_sequences(states: Tensor, packing: Packing, skip_ends: bool) -> Tensor:
    """Return the mean over each sequence's tokens, [sequences, width] float32, accumulated in float32.

    `skip_ends` leaves out the first and last token, which are <cls> and <eos> in ESM.
    """
    means = []
    for run in packing.runs:
        tokens = states[run.tokens].unflatten(0, (run.count, run.length))
        means.append((tokens[:, 1:-1] if skip_ends else tokens).mean(dim=1, dtype=torch.float32))
    return torch.cat(means)
