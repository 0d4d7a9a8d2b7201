"""Elementwise operations fused into one kernel on a GPU, where separate kernels are limited by memory bandwidth.

`torch.compile` makes the kernel, for any number of tokens, and its first result is compared with that of the plain
operations. These are used, with a warning, where there is no compiler or where the results differ. On a CPU, and in
narrow networks, they are always used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from virnuc.encoders.batching import is_out_of_memory

Operation = Callable[..., Tensor]
_MIN_VALUES = 1536  # per token; with fewer, in encoders below 650M parameters, compiling takes longer than it saves
_TOLERANCE = 0.02  # share of the largest value: plain operations round to bf16 at each step, a fused kernel once
_log = logging.getLogger(__name__)


class Fused:
    """A function of tensors in two forms: plain operations, and a formula that can be compiled."""

    def __init__(self, plain: Operation, formula: Operation) -> None:
        """Take both forms; `plain` may work in place, but not on its arguments."""
        self._plain, self._formula = plain, formula
        self._chosen: dict[tuple[torch.device, torch.dtype], Operation] = {}

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the result, computed in the form that suits the tensors' device."""
        if tensors[0].device.type != "cuda" or tensors[0].shape[1:].numel() < _MIN_VALUES:
            return self._plain(*tensors)
        kind = tensors[0].device, tensors[0].dtype
        if kind not in self._chosen:
            self._chosen[kind] = self._try(*tensors)
        return self._chosen[kind](*tensors)

    def _try(self, *tensors: Tensor) -> Operation:
        """Return the compiled formula if it agrees with the plain operations on these tensors; else the latter."""
        expected = self._plain(*tensors)
        try:
            compiled = torch.compile(self._formula, dynamic=True)
            distance = float((compiled(*tensors) - expected).abs().max() / expected.abs().max())
            if distance <= _TOLERANCE:
                return compiled
            reason = f"it differs by {distance:.1e}"
        except Exception as error:  # from torch's compiler, Triton or the C compiler
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        _log.warning("%s is not fused on %s: %s", self._formula.__name__, tensors[0].device, reason)
        return self._plain
