"""A whole training: from the checks before the first step to the checkpoints."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from virnuc.features.feature_set import FeatureSet
from virnuc.features.scan import Progress
from virnuc.runtime import choose_device, derived_seed
from virnuc.settings import TrainSettings
from virnuc.splits.assignment import Split
from virnuc.storage.files import exclusive, remove_leftovers, write_text
from virnuc.training.batches import Plan, choose_shuffle
from virnuc.training.checkpoint import Checkpoint, describe_training, model_name, save_checkpoint
from virnuc.training.classifier import Classifier
from virnuc.training.data import Parts, match, place_if_it_fits
from virnuc.training.epochs import Trainer, validate
from virnuc.training.state import EarlyStopping, EpochRecord, Training, last_reported, mark_reported

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """A finished training."""

    name: str  # of the model: the protein encoder's, with the modality if it is not merged
    model: Path  # the checkpoint that --checkpoint asked for
    last: Path  # checkpoint of the last epoch
    best: Path  # checkpoint of the epoch with the lowest validation loss
    log: Path  # training_log_<name>.txt, a line an epoch
    history: list[EpochRecord]
    best_epoch: int
    stopped_early: bool
    metrics: dict[str, float]  # of the epoch that `model` is of
    run_id: str
    shuffle: str  # full or block
    resumed_from: int = 0  # the epoch after which an interrupted training went on; 0 if undisturbed
    left_out: int = 0  # frames of a mixture whose genomes the split does not have

    @property
    def epochs(self) -> int:
        """Number of epochs run."""
        return len(self.history)


def train(
    features: FeatureSet,
    split: Split,
    settings: TrainSettings,
    directory: Path,
    *,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    progress: Progress = lambda items, total: items,
    run_id: str = "",
) -> TrainingResult:
    """Train the classifier in `directory`, or go on from the last finished epoch of the training there.

    Args:
        features: the vectors.
        split: which frames are for training and validation. Test frames are not read.
        settings: hyperparameters.
        directory: for state, checkpoints and log.
        on_epoch: called after each epoch. After an interruption an epoch that is not known to have been reported is
            reported (again) with `in_doubt`.
        progress: wraps the sizes of an epoch's batches, given the number of its frames.
        run_id: kept with the state for the caller, see `find_training`.

    Raises:
        DataError: features and split do not fit together, or the directory holds another training.
    """
    parts = match(features, split, settings.modality)
    name = model_name(features.encoders, settings.modality)
    with exclusive(directory / ".lock"):
        remove_leftovers(directory)
        training = _begin(features, split, settings, parts.train.width)
        training.run_id = run_id
        if not training.restore(directory, settings.shuffle):
            shuffle = choose_shuffle(settings.shuffle, parts)
            _log.info("shuffle %s (%s)", shuffle.name, shuffle.reason)
            training.shuffle = shuffle.name
            training.save(directory)
        resumed_from = 0 if training.finished else training.epoch
        _report(training, directory, name, on_epoch, in_doubt=True)
        if not training.finished:
            _run(training, parts, settings, progress, lambda: _report(training, directory, name, on_epoch), directory)
        metadata = describe_training(features, split, settings.modality, training.model)
        result = _finish(training, settings, directory, name, metadata)
        return dataclasses.replace(result, resumed_from=resumed_from, left_out=parts.left_out)


def _begin(features: FeatureSet, split: Split, settings: TrainSettings, width: int) -> Training:
    """Return a training before its first epoch."""
    choice = choose_device(settings.device)
    _log.info("training on %s (%s)", choice.name, choice.reason)
    device = torch.device(choice.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(settings.seed, "weights"))
        model = Classifier(width, settings.hidden_dim, dropout=settings.dropout).to(device)
    # A CUDA graph reads the learning rate from the device's memory.
    rate = torch.tensor(settings.lr, device=device) if device.type == "cuda" else settings.lr
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=settings.momentum, fused=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, settings.step_size, settings.gamma)
    fingerprint = settings.decisive() | {
        "features": features.digest_of(settings.modality),
        "split": split.digest,
        "device": device.type,
    }
    return Training(model, optimizer, scheduler, EarlyStopping(settings.patience), fingerprint)


def _run(
    training: Training,
    parts: Parts,
    settings: TrainSettings,
    progress: Progress,
    report: Callable[[], None],
    directory: Path,
) -> None:
    """Train until the last epoch or until early stopping, saving everything after each epoch."""
    parts = place_if_it_fits(parts, next(training.model.parameters()).device)
    plan = Plan.make(parts.train, settings.batch_size, training.shuffle)
    trainer = Trainer(training.model, training.optimizer, parts.train, plan, settings.readers, progress)
    while not training.finished:
        started = time.perf_counter()
        rate = float(training.optimizer.param_groups[0]["lr"])
        measured = trainer.run(settings.seed, training.epoch + 1)
        measured |= validate(training.model, parts.val, settings.readers) | {"lr": rate}
        measured["time/epoch_s"] = time.perf_counter() - started
        training.conclude_epoch(measured, settings.epochs)
        training.save(directory)
        report()


def _report(
    training: Training,
    directory: Path,
    name: str,
    on_epoch: Callable[[EpochRecord], None],
    *,
    in_doubt: bool = False,
) -> None:
    """Tell the caller of the last finished epoch, unless it was told before, and write the log."""
    if last_reported(directory) < training.epoch:
        on_epoch(EpochRecord(training.epoch, training.history[-1], in_doubt))
        mark_reported(directory, training.epoch)
    lines = [_log_line(epoch, metrics) for epoch, metrics in enumerate(training.history, start=1)]
    write_text(_log_path(directory, name), "".join(lines))


def _log_path(directory: Path, name: str) -> Path:
    return directory / f"training_log_{name}.txt"


def _log_line(epoch: int, metrics: dict[str, float]) -> str:
    return "  ".join([f"epoch {epoch}", *(f"{key} {value:.6g}" for key, value in metrics.items())]) + "\n"


def _finish(
    training: Training,
    settings: TrainSettings,
    directory: Path,
    name: str,
    metadata: dict[str, Any],
) -> TrainingResult:
    """Write the checkpoints. `final` is what training ended with: early stopping puts the best weights back."""
    stopping, stopped_early = training.stopping, training.stopping.exhausted
    last = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
    kept_best = settings.checkpoint == "best" or stopped_early
    versions = {
        f"model_{name}_last.pth": (last, training.epoch),
        f"model_{name}_best.pth": (training.best, stopping.best_epoch),
        f"model_{name}.pth": (training.best, stopping.best_epoch) if kept_best else (last, training.epoch),
    }
    for file, (states, epoch) in versions.items():
        state = {key: tensor.cpu() for key, tensor in states["model"].items()}
        save_checkpoint(directory / file, Checkpoint(state, metadata, epoch, stopping.best_loss, states["optimizer"]))
    return TrainingResult(
        name=name,
        model=directory / f"model_{name}.pth",
        last=directory / f"model_{name}_last.pth",
        best=directory / f"model_{name}_best.pth",
        log=_log_path(directory, name),
        history=[EpochRecord(epoch, metrics) for epoch, metrics in enumerate(training.history, start=1)],
        best_epoch=stopping.best_epoch,
        stopped_early=stopped_early,
        metrics=training.history[(stopping.best_epoch if kept_best else training.epoch) - 1],
        run_id=training.run_id,
        shuffle=training.shuffle,
    )
