"""Elementwise steps as one kernel on a GPU, where each kernel by itself only waits for memory.

torch compiles them, for any number of tokens at once, and the result is compared with the plain steps when it is first
used. Where there is no compiler, or the result differs, the plain steps are taken, and it is said. A CPU always takes
them, and so do narrow networks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from virnuc.encoders.batching import is_out_of_memory

Steps = Callable[..., Tensor]
_WIDE = 1536  # values a token; with fewer, of encoders below 650M, compiling takes longer than it saves
_ROUNDING = 0.02  # of the largest value: plain steps round to bf16 in between, a fused kernel once
_log = logging.getLogger(__name__)


class Fused:
    """A function of tensors that has two forms: plain steps, and a formula that can be compiled."""

    def __init__(self, plain: Steps, formula: Steps) -> None:
        """Take both; `plain` may work in place on what it was not given."""
        self._plain, self._formula = plain, formula
        self._chosen: dict[tuple[torch.device, torch.dtype], Steps] = {}

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the result of the form that is right and fast on the tensors' device."""
        if tensors[0].device.type != "cuda" or tensors[0].shape[1:].numel() < _WIDE:
            return self._plain(*tensors)
        kind = tensors[0].device, tensors[0].dtype
        if kind not in self._chosen:
            self._chosen[kind] = self._try(*tensors)
        return self._chosen[kind](*tensors)

    def _try(self, *tensors: Tensor) -> Steps:
        """Return the compiled formula if it gives what the plain steps give here."""
        expected = self._plain(*tensors)
        try:
            compiled = torch.compile(self._formula, dynamic=True)
            distance = float((compiled(*tensors) - expected).abs().max() / expected.abs().max())
            if distance <= _ROUNDING:
                return compiled
            reason = f"it differs by {distance:.1e}"
        except Exception as error:  # of torch's compiler, Triton, or the C compiler that it starts
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        _log.warning("%s is not fused on %s: %s", self._formula.__name__, tensors[0].device, reason)
        return self._plain
