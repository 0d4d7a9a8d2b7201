"""A whole training of all replicates, from the checks before the first step to the checkpoints."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import Progress, choose_device, silent
from virnuc.settings import TrainSettings
from virnuc.splits.assignment import Split
from virnuc.storage.files import exclusive, remove_leftovers, write_text
from virnuc.training.batches import Plan, choose_shuffle
from virnuc.training.checkpoint import REPLICATES, Checkpoint, describe_training, model_name, save_checkpoint
from virnuc.training.data import TrainingData, match, place_if_it_fits
from virnuc.training.epochs import Trainer, validate
from virnuc.training.state import EpochRecord, Replicate, Training, last_reported, mark_reported

_log = logging.getLogger(__name__)
_SUMMARISED = ("loss", "accuracy", "roc_auc")  # validation metrics of all replicates in a checkpoint's metadata


@dataclass(frozen=True)
class TrainedReplicate:
    """The finished training of one replicate."""

    seed: int
    model: Path  # the checkpoint that --checkpoint asked for
    log: Path  # training_log_<name>.txt, one line for each epoch
    history: list[EpochRecord]
    best_epoch: int
    stopped_early: bool
    metrics: dict[str, float]  # after the epoch that `model` was taken from

    @property
    def epochs(self) -> int:
        """Number of epochs run."""
        return len(self.history)


@dataclass(frozen=True)
class TrainingResult(TrainedReplicate):
    """All replicates; the inherited fields are those of the replicate with the median validation loss."""

    name: str  # of the model: the protein encoder's, with the modality if it is not merged
    last: Path  # checkpoint of the last epoch
    best: Path  # checkpoint of the epoch with the lowest validation loss
    replicates: tuple[TrainedReplicate, ...]  # ordered by seed
    run_id: str
    shuffle: str  # full or block
    left_out: int = 0  # number of frames or readings of chunks whose genomes have no frame in the split

    def described(self) -> dict[str, str | int]:
        """Return tags: this replicate's seed and, as lists joined by commas, seeds and metrics of all replicates."""
        tags: dict[str, str | int] = {"seed": self.seed, "replicates": len(self.replicates)}
        tags["replicate_seeds"] = ",".join(str(own.seed) for own in self.replicates)
        for name in _SUMMARISED:
            tags[f"replicate_val_{name}"] = ",".join(f"{own.metrics[f'val/{name}']:.6g}" for own in self.replicates)
        return tags

    def spread(self) -> dict[str, float]:
        """Return mean, standard deviation and range of validation metrics over replicates; empty for a single one."""
        found: dict[str, float] = {}
        for name in _SUMMARISED if len(self.replicates) > 1 else ():
            values = [own.metrics[f"val/{name}"] for own in self.replicates]
            ends = {"low": min(values), "high": max(values)}
            ends |= {"mean": statistics.fmean(values), "sd": statistics.stdev(values)}
            found |= {f"val/replicates/{name}_{end}": value for end, value in ends.items()}
        return found


def train(
    features: FeatureSet,
    split: Split,
    settings: TrainSettings,
    directory: Path,
    *,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    progress: Progress = silent,
    run_id: str = "",
    share: float = 1.0,
) -> TrainingResult:
    """Train the classifiers in `directory`, or resume from the last finished epoch of the training there.

    The replicates have consecutive seeds, beginning with `settings.seed`. All see the same rows in the same order, that
    of the first seed; each draws initial weights and dropout by its own seed. One that stops early leaves the pass over
    the rows, and the others go on.

    Args:
        features: the vectors.
        split: which frames are for training and validation; test frames are not read.
        settings: hyperparameters.
        directory: for state, checkpoints and logs.
        on_epoch: called for each replicate after each epoch. After an interruption the last epoch is reported again,
            with `in_doubt`, unless it is certain that it was reported before.
        progress: told how many frames of an epoch are done.
        run_id: kept with the state for the caller, see `find_training`.
        share: share of the training genomes of each class to train on.

    Raises:
        UsageError: the device is not there, or a loss became infinite.
        DataError: features and split do not fit together, or the state in the directory is damaged.
        IncompatibleCheckpointError: the directory holds another training.
    """
    parts = match(features, split, settings.modality, share, settings.seed)
    name = model_name(features.encoders, settings.modality)
    with exclusive(directory / ".lock"):
        remove_leftovers(directory)
        training = _begin(features, split, settings, parts.train.width, share)
        training.run_id = run_id
        if not training.restore(directory):
            shuffle = choose_shuffle(settings.shuffle, parts, training.device)
            _log.info("shuffle %s (%s)", shuffle.name, shuffle.reason)
            training.shuffle = shuffle.name
            training.save(directory)
        _report(training, directory, name, on_epoch, in_doubt=True)
        if not training.finished:
            _run(training, parts, settings, progress, lambda: _report(training, directory, name, on_epoch), directory)
        metadata = describe_training(features, split, settings.modality, training.replicates[0].model)
        result = _finish(training, settings, directory, name, metadata)
        return dataclasses.replace(result, left_out=parts.left_out)


def _begin(features: FeatureSet, split: Split, settings: TrainSettings, width: int, share: float) -> Training:
    """Return a training before its first epoch."""
    choice = choose_device(settings.device)
    _log.info("training on %s (%s)", choice.name, choice.reason)
    device = torch.device(choice.name)
    seeds = range(settings.seed, settings.seed + settings.replicates)
    fingerprint = settings.decisive() | {
        "features": features.digest_of(settings.modality),
        "split": split.digest,
        "device": device.type,
        "share": share,
    }
    return Training([Replicate.begin(seed, settings, width, device) for seed in seeds], fingerprint)


def _run(
    training: Training,
    parts: TrainingData,
    settings: TrainSettings,
    progress: Progress,
    report: Callable[[], None],
    directory: Path,
) -> None:
    """Train until the last epoch or early stopping of each replicate, saving everything after each epoch."""
    parts = place_if_it_fits(parts, training.device)
    plan = Plan.make(parts.train, settings.batch_size, training.shuffle)
    while active := training.active:
        trainer = Trainer(active, parts.train, plan, settings.readers, progress)
        while training.active == active:
            started = time.perf_counter()
            rate = {"lr": active[0].rate}
            trained = trainer.run(settings.seed, active[0].epoch + 1)
            validated = validate(trainer.stack, parts.val, settings.readers)
            took = {"epoch_s": time.perf_counter() - started}
            for replicate, steps, measured in zip(active, trained, validated, strict=True):
                replicate.conclude_epoch(steps | measured | rate | took, settings.epochs)
            training.save(directory)
            report()
        trainer.stack.release()


def _report(
    training: Training,
    directory: Path,
    name: str,
    on_epoch: Callable[[EpochRecord], None],
    *,
    in_doubt: bool = False,
) -> None:
    """Report the last finished epoch to the caller, unless that was done before, and write the logs."""
    if last_reported(directory) < training.epoch:
        reported = [replicate for replicate in training.replicates if replicate.epoch == training.epoch]
        for own in reported:
            on_epoch(EpochRecord(own.epoch, own.history[-1], own.seed, in_doubt))
        mark_reported(directory, training.epoch)
        for own in reported:
            _write_log(_folder(directory, training, own) / _log_name(name), own)


def _folder(directory: Path, training: Training, replicate: Replicate) -> Path:
    """Return the folder of a replicate's files; a single replicate has none of its own."""
    return directory / REPLICATES / str(replicate.seed) if len(training.replicates) > 1 else directory


def _log_name(name: str) -> str:
    return f"training_log_{name}.txt"


def _write_log(path: Path, replicate: Replicate) -> None:
    lines = (
        "  ".join([f"epoch {epoch}", *(f"{key} {value:.6g}" for key, value in metrics.items())]) + "\n"
        for epoch, metrics in enumerate(replicate.history, start=1)
    )
    write_text(path, "".join(lines))


def _kept(replicate: Replicate, settings: TrainSettings) -> tuple[dict[str, Any], int]:
    """Return the weights of the model, and their epoch.

    `final` stands for the weights at the end of training; after early stopping these are the best ones.
    """
    if settings.checkpoint == "best" or replicate.stopping.exhausted:
        return replicate.best, replicate.stopping.best_epoch
    return replicate.weights(), replicate.epoch


def _finish(
    training: Training, settings: TrainSettings, directory: Path, name: str, metadata: dict[str, Any]
) -> TrainingResult:
    """Write the checkpoints: the median replicate's into `directory`, those of the others into their folders."""
    kept = {replicate.seed: _kept(replicate, settings) for replicate in training.replicates}
    metrics = {own.seed: own.history[kept[own.seed][1] - 1] for own in training.replicates}
    chosen = median_seed({seed: found["val/loss"] for seed, found in metrics.items()})
    metadata |= {"replicates": [_summary(seed, kept[seed][1], found) for seed, found in metrics.items()]}
    finished = []
    for own in training.replicates:
        folder = directory if own.seed == chosen else _folder(directory, training, own)
        versions = {f"model_{name}.pth": kept[own.seed]}
        if own.seed == chosen:
            versions |= {
                f"model_{name}_last.pth": (own.weights(), own.epoch),
                f"model_{name}_best.pth": (own.best, own.stopping.best_epoch),
            }
            _write_log(folder / _log_name(name), own)
        for file, (states, epoch) in versions.items():
            described = metadata | {"seed": own.seed}
            save_checkpoint(
                folder / file,
                Checkpoint(states["model"], described, epoch, own.stopping.best_loss, states["optimizer"]),
            )
        finished.append(
            TrainedReplicate(
                seed=own.seed,
                model=folder / f"model_{name}.pth",
                log=folder / _log_name(name),
                history=[EpochRecord(epoch, found, own.seed) for epoch, found in enumerate(own.history, start=1)],
                best_epoch=own.stopping.best_epoch,
                stopped_early=own.stopping.exhausted,
                metrics=metrics[own.seed],
            )
        )
    return TrainingResult(
        **vars(next(own for own in finished if own.seed == chosen)),
        name=name,
        last=directory / f"model_{name}_last.pth",
        best=directory / f"model_{name}_best.pth",
        replicates=tuple(finished),
        run_id=training.run_id,
        shuffle=training.shuffle,
    )


def median_seed(losses: Mapping[int, float]) -> int:
    """Return the seed with the median loss; of an even number, that with the lower of the two middle ones."""
    ranked = sorted(losses, key=lambda seed: (losses[seed], seed))
    return ranked[(len(ranked) - 1) // 2]


def _summary(seed: int, epoch: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return a replicate's entry in the metadata of the checkpoints."""
    return {"seed": seed, "epoch": epoch} | {f"val_{name}": metrics[f"val/{name}"] for name in _SUMMARISED}
