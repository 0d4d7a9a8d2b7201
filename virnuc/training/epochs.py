"""One epoch of training and one of validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional

from virnuc.errors import UsageError
from virnuc.runtime import Progress, derived_seed
from virnuc.training.batches import Plan, read_ahead
from virnuc.training.classifier import classify
from virnuc.training.data import Subset
from virnuc.training.graphs import graphed_steps
from virnuc.training.stack import Stack
from virnuc.training.state import Replicate

_SCORED_AT_ONCE = 1024  # frames in one read of validation


class Trainer:
    """Makes the steps of an epoch, one for each batch, for all replicates together."""

    def __init__(
        self, replicates: Sequence[Replicate], part: Subset, plan: Plan, readers: int, progress: Progress
    ) -> None:
        """Prepare to train `replicates` on `part`, read by `readers` threads; `progress` gets the frames done."""
        self.stack = Stack([own.model for own in replicates], [own.optimizer for own in replicates])
        self._replicates = replicates
        self._part = part
        self._plan = plan
        self._readers = readers
        self._progress = progress
        on_gpu = part.resident is not None and self.stack.device.type == "cuda"
        self._graph = graphed_steps(self.stack, part, plan) if on_gpu and len(part) >= plan.batch else None

    def run(self, seed: int, epoch: int) -> list[dict[str, float]]:
        """Train one epoch in the order given by `seed`; return each replicate's mean loss and the speed in frames/s.

        Dropout is seeded for each epoch, so that an epoch is the same whether or not training was resumed before it.

        Raises:
            UsageError: a loss is not finite.
        """
        order = self._plan.order(seed, epoch)
        started = time.perf_counter()
        self.stack.seed_dropout([derived_seed(own.seed, "dropout", epoch) for own in self._replicates])
        losses = torch.zeros(len(self.stack), dtype=torch.float64, device=self.stack.device)
        done = 0
        for rows in self._stream(order, losses) if self._graph is None else self._graph.steps(order, losses):
            done += rows
            self._progress(f"epoch {epoch}", done, self._plan.rows)
        means = (losses / self._plan.rows).tolist()  # waits for the device
        speed = self._plan.rows / (time.perf_counter() - started)
        if not all(map(math.isfinite, means)):
            raise UsageError(f"the training loss became {means} in epoch {epoch}; use a lower --lr")
        return [{"train/loss": mean, "frames_per_s": speed} for mean in means]

    def _stream(self, order: np.ndarray, losses: Tensor) -> Iterator[int]:
        """Make the steps of an epoch on batches from disk; add up `losses` `[replicates]`, yield the rows of each."""
        for features, labels in read_ahead(self._part, order, self._plan.reads, self._readers):
            on_device = features.to(self.stack.device), labels.to(self.stack.device)
            for batch in self._plan.batches(len(labels)):
                step = self.stack.step(on_device[0][batch], on_device[1][batch])
                losses.add_(step, alpha=batch.stop - batch.start)
                yield batch.stop - batch.start


def part_logits(stack: Stack, part: Subset, readers: int) -> Tensor:
    """Return the logits of a part's frames, `[replicates, n, 2]` float64 on the CPU, in the part's order."""
    reads = [slice(start, start + _SCORED_AT_ONCE) for start in range(0, len(part), _SCORED_AT_ONCE)]
    vectors = (features for features, _ in read_ahead(part, np.arange(len(part)), reads, readers))
    logits = classify(lambda batch: stack.logits(batch).transpose(0, 1), vectors, len(part), stack.device)
    return logits.transpose(0, 1).contiguous()


def validate(stack: Stack, part: Subset, readers: int) -> list[dict[str, float]]:
    """Return each replicate's metrics on a part: over all frames and, for a mixture, for each chunk size too."""
    return [_validate(logits, part) for logits in part_logits(stack, part, readers)]


def _validate(logits: Tensor, part: Subset) -> dict[str, float]:
    measured = measure(logits, part.labels, "val/")
    if len(part.sizes) > 1:
        for (size, some), (_, labels) in zip(part.by_size(logits), part.by_size(part.labels), strict=True):
            measured |= measure(some, labels, f"val/{size}bp/")
    return measured


def measure(logits: Tensor, labels: Tensor, prefix: str) -> dict[str, float]:
    """Return the metrics of logits `[n, 2]` float64 and labels `[n]` int64 of both classes, named `<prefix><metric>`.

    Viral is the positive class. MCC is Matthews' correlation coefficient, 0 where it is not defined.
    """
    truth, called = labels.numpy(force=True), logits.argmax(dim=1).numpy()
    viral = torch.softmax(logits, dim=1)[:, 1].numpy()
    (tn, fp), (fn, tp) = np.bincount(2 * truth + called, minlength=4).reshape(2, 2).tolist()
    margin = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    measured = {
        "loss": functional.cross_entropy(logits, torch.from_numpy(truth)),
        "accuracy": (tp + tn) / len(truth),
        "precision": tp / max(tp + fp, 1),  # 0 if nothing is called viral
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "roc_auc": roc_auc_score(truth, viral),
        "mcc": (tp * tn - fp * fn) / margin if margin else 0.0,
        "pr_auc": average_precision_score(truth, viral),
    }
    return {prefix + name: float(value) for name, value in measured.items()}
