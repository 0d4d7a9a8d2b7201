"""One epoch of training and one of validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from sklearn import metrics
from torch import Tensor
from torch.nn import functional

from virnuc.classifier import Classifier
from virnuc.errors import UsageError
from virnuc.features.scan import Progress
from virnuc.runtime import derived_seed
from virnuc.training.batches import Plan, read_ahead
from virnuc.training.data import Part

_SCORED_AT_ONCE = 4096  # frames


def train_epoch(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    part: Part,
    plan: Plan,
    seed: int,
    epoch: int,
    readers: int,
    progress: Progress,
) -> dict[str, float]:
    """Make one step for every batch; return the mean loss over frames and the speed.

    Dropout draws from torch's generator, which is seeded anew each epoch, so that an epoch does not depend on how the
    ones before it were interrupted.
    """
    device = next(model.parameters()).device
    total = torch.zeros((), dtype=torch.float64, device=device)
    batches = _batches(part, plan, plan.order(seed, epoch), readers)
    count = sum(len(plan.batches(piece.stop - piece.start)) for piece in plan.reads)
    model.train()
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derived_seed(seed, "dropout", epoch))
        for features, labels in progress(batches, count):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(features.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total.add_(loss.detach(), alpha=len(labels))
    mean = total.item() / plan.rows  # waits for the device
    if not math.isfinite(mean):
        raise UsageError(f"the training loss became {mean} in epoch {epoch}; use a lower --lr")
    return {"train/loss": mean, "throughput/frames_per_s": plan.rows / (time.perf_counter() - started)}


def _batches(part: Part, plan: Plan, order: np.ndarray, readers: int) -> Iterator[tuple[Tensor, Tensor]]:
    for features, labels in read_ahead(part, order, plan.reads, readers):
        for batch in plan.batches(len(labels)):
            yield features[batch], labels[batch]


def validate(model: Classifier, part: Part, readers: int) -> dict[str, float]:
    """Return the metrics of DESIGN's names over all frames of a part, pooled."""
    return measure(predict(model, part, readers), part.labels)


@torch.inference_mode()
def predict(model: Classifier, part: Part, readers: int) -> Tensor:
    """Return the logits of a part's frames, `[n, 2]` float64, in the order of the part."""
    device = next(model.parameters()).device
    model.eval()
    reads = [slice(start, start + _SCORED_AT_ONCE) for start in range(0, len(part), _SCORED_AT_ONCE)]
    pieces = read_ahead(part, np.arange(len(part)), reads, readers)
    return torch.cat([model(features.to(device)).double().cpu() for features, _ in pieces])


def measure(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the validation metrics of logits `[n, 2]` float64 and labels `[n]` of both classes."""
    truth, called = labels.numpy(), logits.argmax(dim=1).numpy()
    viral = torch.softmax(logits, dim=1)[:, 1].numpy()
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, called, average="binary", zero_division=0.0
    )
    return {
        "val/loss": float(functional.cross_entropy(logits, labels)),
        "val/accuracy": float(metrics.accuracy_score(truth, called)),
        "val/precision": float(precision),
        "val/recall": float(recall),
        "val/f1": float(f1),
        "val/roc_auc": float(metrics.roc_auc_score(truth, viral)),
        "val/mcc": float(metrics.matthews_corrcoef(truth, called)),
        "val/pr_auc": float(metrics.average_precision_score(truth, viral)),
    }
