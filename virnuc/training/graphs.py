"""Training steps on a GPU as a CUDA graph.

At a batch of 32 a step is some 30 kernels of a few microseconds each, and launching them one by one takes longer than
running them. The graph launches a whole step at once; it takes its rows from the features on the device by a
counter that it advances itself, so that nothing is copied between steps.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from virnuc.features.scan import Progress
from virnuc.training.batches import Plan
from virnuc.training.classifier import Classifier
from virnuc.training.data import Part

_WARM_UP = 3  # steps before the capture, as torch's notes on CUDA graphs ask for


class GraphedSteps:
    """The steps of an epoch over a part whose vectors are on the GPU, as the optimizer's learning rate must be."""

    def __init__(self, model: Classifier, optimizer: torch.optim.SGD, part: Part, plan: Plan) -> None:
        """Capture one step; weights, statistics and momentum are afterwards what they were before."""
        assert part.resident is not None
        self._model, self._optimizer = model, optimizer
        self._vectors, self._labels = part.resident, part.labels
        device = part.resident.device
        self._batch = plan.batch
        self._order = torch.arange(len(part), device=device)
        self._within = torch.arange(plan.batch, device=device)
        self._first = torch.zeros((), dtype=torch.int64, device=device)  # position of the batch's first frame
        self._total = torch.zeros((), dtype=torch.float64, device=device)
        self._graph = torch.cuda.CUDAGraph()
        self._capture()

    def run(self, order: np.ndarray, progress: Progress) -> Tensor:
        """Make the steps of an epoch; return the sum of the frames' losses."""
        self._order.copy_(torch.from_numpy(order))
        self._first.zero_()
        self._total.zero_()
        rest = len(order) % self._batch
        if rest == 1:  # joins the last whole batch
            rest += self._batch
        whole = [self._batch] * ((len(order) - rest) // self._batch)
        for size in progress([*whole, rest] if rest else whole, len(order)):
            self._graph.replay() if size == self._batch else self._step(self._order[-rest:])
        return self._total

    def _step(self, rows: Tensor) -> None:
        self._optimizer.zero_grad()
        loss = functional.cross_entropy(self._model(self._vectors[rows]), self._labels[rows])
        loss.backward()
        self._optimizer.step()
        self._total.add_(loss.detach(), alpha=len(rows))

    def _capture(self) -> None:
        before = copy.deepcopy((self._model.state_dict(), self._optimizer.state_dict()["state"]))
        self._model.train()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._step(self._order[: self._batch])
        torch.cuda.current_stream().wait_stream(aside)
        self._optimizer.zero_grad()
        with torch.cuda.graph(self._graph):
            self._step(self._order[self._first + self._within])
            self._first.add_(self._batch)
        self._put_back(*before)

    @torch.no_grad()
    def _put_back(self, weights: dict[str, Tensor], momentum: dict[int, dict[str, Tensor]]) -> None:
        """Undo the warm-up in place: the graph has the tensors' addresses."""
        self._model.load_state_dict(weights)
        for index, parameter in enumerate(self._model.parameters()):
            buffer = self._optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                # Momentum that starts from zero gives the same first step as momentum that starts from the gradient.
                saved = momentum.get(index, {}).get("momentum_buffer")
                buffer.copy_(saved if saved is not None else torch.zeros_like(buffer))
