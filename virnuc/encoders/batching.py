"""What a batch may hold, and its copies between host and device: the only code of an encoder that differs on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_PATIENCE = 64  # batches that must fit before a larger one is tried
_FULL_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")  # of oneDNN, and of cuBLAS for its workspace


@dataclass
class TokenBudget:
    """How many tokens fit into a batch, as learned from batches that did not.

    After a failure it is half of what failed. It grows halfway to the smallest failure after every `_PATIENCE` batches
    that fit, until an eighth is left: a search that ends, so that failures stay few.
    """

    limit: int | None = None  # None: nothing failed yet
    failed: int = 0  # tokens of the smallest batch that did not fit
    fitted: int = 0  # batches that fit since the limit last changed

    def allowed(self, asked: int) -> int:
        """Return how many tokens the next batch may have where `asked` are wanted."""
        return asked if self.limit is None else min(asked, self.limit)

    def overflow(self, tokens: int) -> None:
        """Record that a batch of `tokens` did not fit."""
        self.failed = min(tokens, self.failed or tokens)
        self.limit, self.fitted = max(1, min(self.limit or tokens, tokens // 2)), 0

    def fit(self) -> None:
        """Record that a batch fitted."""
        self.fitted += 1
        if self.limit is not None and self.fitted >= _PATIENCE and self.failed - self.limit > self.failed // 8:
            self.limit, self.fitted = (self.limit + self.failed) // 2, 0


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that a device's or the host's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL_MEMORY)


class Arriving:
    """A tensor on its way to the host."""

    def __init__(self, computed: Tensor) -> None:
        """Queue the copy right behind the computation, so that it does not wait for what is queued later."""
        self._event: torch.cuda.Event | None = None
        self._host = computed
        if computed.device.type == "cuda":
            self._host = torch.empty(computed.shape, dtype=computed.dtype, pin_memory=True)
            self._host.copy_(computed, non_blocking=True)
            self._event = torch.cuda.Event()
            # Of the tensor's device: in another thread than the one that chose it, cuda:0 is current again.
            self._event.record(torch.cuda.current_stream(computed.device))

    def wait(self) -> Tensor:
        """Return the tensor on the host when it is there."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on `device`, copied without waiting for what the device is doing."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
