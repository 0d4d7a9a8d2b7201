"""How large a batch may be where memory is limited, and its copies between host and device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_PATIENCE = 64  # batches that must fit before a larger one is tried
_FULL_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")  # from oneDNN; from cuBLAS for its workspace


@dataclass
class TokenBudget:
    """The maximum number of tokens in a batch, learned from batches that did not fit into memory.

    The limit becomes half of a batch that failed. After `_PATIENCE` batches that fit it moves halfway towards the
    smallest batch that failed, until the gap is an eighth of that: a bisection that ends after few failures.
    """

    limit: int | None = None  # None: no batch has failed
    failed: int = 0  # tokens of the smallest batch that did not fit
    fitted: int = 0  # number of batches that fitted since the limit last changed

    def allowed(self, asked: int) -> int:
        """Return the maximum tokens of the next batch when `asked` are wanted."""
        return asked if self.limit is None else min(asked, self.limit)

    def overflow(self, tokens: int) -> None:
        """Record that a batch of `tokens` tokens did not fit."""
        self.failed = min(tokens, self.failed or tokens)
        self.limit, self.fitted = max(1, min(self.limit or tokens, tokens // 2)), 0

    def fit(self) -> None:
        """Record that a batch fitted."""
        self.fitted += 1
        if self.limit is not None and self.fitted >= _PATIENCE and self.failed - self.limit > self.failed // 8:
            self.limit, self.fitted = (self.limit + self.failed) // 2, 0


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether `error` means that the memory of a device or of the host is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL_MEMORY)


class HostCopy:
    """A copy of a tensor to the host that may still be under way."""

    def __init__(self, computed: Tensor) -> None:
        """Queue the copy right after the computation, so that it does not wait for later work on the device."""
        self._event: torch.cuda.Event | None = None
        self._host = computed
        if computed.device.type == "cuda":
            self._host = torch.empty(computed.shape, dtype=computed.dtype, pin_memory=True)
            self._host.copy_(computed, non_blocking=True)
            self._event = torch.cuda.Event()
            # The tensor's device must be named: the current device is set per thread and is cuda:0 in a new one.
            self._event.record(torch.cuda.current_stream(computed.device))

    def wait(self) -> Tensor:
        """Wait for the copy and return it."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on `device`, copied without waiting for the work queued there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
