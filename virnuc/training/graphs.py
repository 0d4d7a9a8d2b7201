"""Training steps on a GPU as a CUDA graph.

With a batch of 32, a step is some 30 kernels of a few microseconds each, and launching them one by one takes longer
than running them. A graph launches the whole step at once. It finds its rows of the features on the device by a counter
that it advances itself, so that nothing is copied between steps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import starmap

import numpy as np
import torch
from torch import Tensor

from virnuc.training.batches import Plan
from virnuc.training.data import Subset
from virnuc.training.stack import Stack

_COMPARED = 4  # number of steps in which a graph is compared with plain steps
_TOLERANCE = 0.02  # share of the change; another order of summation gives 1e-5, other rows or dropout about 1
_WARM_UP = 3  # steps before the capture, as torch's notes on CUDA graphs require
_log = logging.getLogger(__name__)


def graphed_steps(stack: Stack, part: Subset, plan: Plan) -> GraphedSteps | None:
    """Return the captured steps; None, with a warning, if the capture fails or they do not train as plain steps do."""
    before = _states(stack)
    try:
        steps = GraphedSteps(stack, part, plan)
        if steps.agrees():
            return steps
        reason = "it does not train as plain steps do"
    except RuntimeError as error:  # the capture failed, or memory is full
        reason = str(error).partition("\n")[0]
    _restore(stack, *before)
    stack.generators = [torch.Generator(stack.device) for _ in stack.models]  # the failed capture keeps hold of the old
    _log.warning("training continues without a CUDA graph: %s", reason)
    return None


def change_alike(before: Mapping[str, Tensor], plain: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two trainings from the state `before` changed each tensor by nearly the same amount.

    Changes are compared, not weights, because a few steps change a weight by less than a tolerance relative to it.
    """
    for name, start in before.items():
        moved, also = (ended[name].double() - start.double() for ended in (plain, other))
        rounding = 1e-7 * start.double().norm()
        if not bool((moved - also).norm() <= _TOLERANCE * moved.norm() + rounding):
            return False
    return True


class GraphedSteps:
    """The steps of an epoch over a part on the GPU; the optimizers' learning rate must be there, too."""

    def __init__(self, stack: Stack, part: Subset, plan: Plan) -> None:
        """Capture one step; weights, statistics and momentum are restored afterwards."""
        assert part.resident is not None
        self._stack = stack
        self._vectors, self._labels = part.resident, part.labels
        device = part.resident.device
        self._batch = plan.batch
        self._order = torch.arange(len(part), device=device)
        self._within = torch.arange(plan.batch, device=device)
        self._first = torch.zeros((), dtype=torch.int64, device=device)  # position of the batch's first frame
        self._total = torch.zeros(len(stack), dtype=torch.float64, device=device)
        self._graph = torch.cuda.CUDAGraph()
        for generator in stack.generators:
            self._graph.register_generator_state(generator)
        self._capture()

    def steps(self, order: np.ndarray, losses: Tensor) -> Iterator[int]:
        """Make the steps of an epoch in `order`, `[n]` int64; yield the rows of each, and write losses `[replicates]`.

        `losses` gets the sum over all frames, once the last step is made.
        """
        self._order.copy_(torch.from_numpy(order))
        self._first.zero_()
        self._total.zero_()
        rest = len(order) % self._batch
        if rest == 1:  # it joins the last whole batch
            rest += self._batch
        whole = [self._batch] * ((len(order) - rest) // self._batch)
        for size in [*whole, rest] if rest else whole:
            self._graph.replay() if size == self._batch else self._step(self._order[-rest:])
            yield size
        losses.copy_(self._total)

    def agrees(self) -> bool:
        """Return whether replays of the graph change the weights as plain steps on the same rows do."""
        before, found = _states(self._stack), []
        batches = self._order[: self._batch * min(_COMPARED, len(self._order) // self._batch)].split(self._batch)
        for make_step in (self._step, lambda rows: self._graph.replay()):
            self._first.zero_()
            self._stack.seed_dropout(range(len(self._stack)))
            for rows in batches:
                make_step(rows)
            found.append(_states(self._stack)[0])
            _restore(self._stack, *before)
        return all(starmap(change_alike, zip(before[0], *found, strict=True)))

    def _step(self, rows: Tensor) -> None:
        self._total.add_(self._stack.step(self._vectors[rows], self._labels[rows]), alpha=len(rows))

    def _capture(self) -> None:
        before = _states(self._stack)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._step(self._order[: self._batch])
        torch.cuda.current_stream().wait_stream(aside)
        # The stream is given because torch's own for captures is made once per process, on the device that is current
        # then. The outer context restores the current stream, which a failed capture does not.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(self._graph, stream=aside):
            self._step(self._order[self._first + self._within])
            self._first.add_(self._batch)
        _restore(self._stack, *before)


def _states(stack: Stack) -> tuple[list[dict[str, Tensor]], list[list[Tensor]]]:
    """Return copies of each replicate's weights and statistics, and of its momentum buffers."""
    weights = [{name: own.clone() for name, own in model.state_dict().items()} for model in stack.models]
    return weights, [[buffer.clone() for buffer in buffers] for buffers in _momentum(stack)]


def _momentum(stack: Stack) -> list[list[Tensor]]:
    """Return the momentum buffers of each optimizer; it has none before its first step."""
    states = [optimizer.state.values() for optimizer in stack.optimizers]
    return [[state["momentum_buffer"] for state in own if "momentum_buffer" in state] for own in states]


@torch.no_grad()
def _restore(stack: Stack, weights: list[dict[str, Tensor]], momentum: list[list[Tensor]]) -> None:
    """Restore what `_states` returned, in place, as the graph holds the tensors' addresses."""
    for model, saved in zip(stack.models, weights, strict=True):
        model.load_state_dict(saved)
    for buffers, old in zip(_momentum(stack), momentum, strict=True):
        for number, buffer in enumerate(buffers):
            # There is none before the first step; SGD then starts from the gradient, which zeros here come down to.
            buffer.copy_(old[number] if old else torch.zeros_like(buffer))
