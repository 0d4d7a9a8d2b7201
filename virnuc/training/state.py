"""The directory of a training, and the state in it that a training needs to resume, saved after each epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from virnuc.errors import DataError, IncompatibleCheckpointError, UsageError
from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import choose_device, derived_seed
from virnuc.settings import TrainSettings
from virnuc.splits.assignment import Split
from virnuc.storage.files import write_text
from virnuc.storage.tensors import load_plain, save_plain
from virnuc.training.checkpoint import model_name
from virnuc.training.classifier import Classifier

STATE, REPORTED = "training_state.pt", "reported_epoch.txt"
STATE_VERSION = 3


@dataclass(frozen=True)
class EpochRecord:
    """A finished epoch."""

    epoch: int  # from 1
    metrics: dict[str, float]  # by their keys in MLflow
    seed: int = 0  # of the replicate
    in_doubt: bool = False  # finished before an interruption; it may have been reported already


@dataclass(frozen=True)
class TrainingStatus:
    """How far the training in a directory has come."""

    run_id: str
    epoch: int  # the last finished one
    finished: bool


@dataclass
class EarlyStopping:
    """Counts the epochs without a lower validation loss."""

    patience: int
    best_loss: float = float("inf")
    best_epoch: int = 0
    waited: int = 0

    def improves(self, loss: float, epoch: int) -> bool:
        """Record the validation loss of an epoch; return whether it is the lowest so far."""
        better = loss < self.best_loss
        if better:
            self.best_loss, self.best_epoch, self.waited = loss, epoch, 0
        else:
            self.waited += 1
        return better

    @property
    def exhausted(self) -> bool:
        """Whether training is to stop."""
        return self.waited >= self.patience


@dataclass
class Replicate:
    """One of several trainings that differ only in the seed."""

    seed: int
    model: Classifier
    optimizer: torch.optim.SGD
    scheduler: torch.optim.lr_scheduler.StepLR
    stopping: EarlyStopping
    epoch: int = 0  # the last finished one
    finished: bool = False
    best: dict[str, Any] = field(default_factory=dict)  # copies of model and optimizer after the best epoch
    history: list[dict[str, float]] = field(default_factory=list)  # metrics of each epoch

    @classmethod
    def begin(cls, seed: int, settings: TrainSettings, width: int, device: torch.device) -> Replicate:
        """Return a replicate before its first epoch, for vectors of `width` values, its weights drawn by `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "weights"))
            model = Classifier(width, settings.hidden_dim, dropout=settings.dropout).to(device)
        # A CUDA graph needs the learning rate in the device's memory.
        rate = torch.tensor(settings.lr, device=device) if device.type == "cuda" else settings.lr
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=settings.momentum, fused=True)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, settings.step_size, settings.gamma)
        return cls(seed, model, optimizer, scheduler, EarlyStopping(settings.patience))

    @property
    def rate(self) -> float:
        """The learning rate of the next epoch."""
        return float(self.optimizer.param_groups[0]["lr"])

    def weights(self) -> dict[str, Any]:
        """Return copies of the current states of model and optimizer, on the CPU."""
        # They must be copied: a state_dict is only a view of the weights, here even of the stack of all replicates.
        return _copied({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def conclude_epoch(self, metrics: dict[str, float], epochs: int) -> None:
        """Record an epoch, keep its weights if they are the best, and see whether it is the last of `epochs`."""
        self.epoch += 1
        self.scheduler.step()
        if self.stopping.improves(metrics["val/loss"], self.epoch):
            self.best = self.weights()
        before = self.history[-1]["total_s"] if self.history else 0.0
        self.history.append(metrics | {"total_s": before + metrics["epoch_s"]})
        self.finished = self.stopping.exhausted or self.epoch == epochs

    def state(self) -> dict[str, Any]:
        """Return everything as plain values and tensors on the CPU; the best weights only if they are not current."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "finished": self.finished,
            **self.weights(),
            "scheduler": _copied(self.scheduler.state_dict()),
            "stopping": asdict(self.stopping),
            "best": {} if self.stopping.best_epoch == self.epoch else self.best,
            "history": self.history,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # on a GPU the rate is a tensor, which was saved on the CPU
            if isinstance(group["lr"], torch.Tensor):
                group["lr"] = group["lr"].to(group["params"][0].device)
        self.scheduler.load_state_dict(state["scheduler"])
        self.stopping = EarlyStopping(**state["stopping"])
        for name in ("epoch", "finished", "history"):
            setattr(self, name, state[name])
        self.best = state["best"] or self.weights()


@dataclass
class Training:
    """Everything that changes in the course of a training."""

    replicates: list[Replicate]
    fingerprint: dict[str, Any]  # what the result depends on: settings, digests of features and split, device
    shuffle: str = ""  # full or block, chosen at the start
    run_id: str = ""  # kept for the caller

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.replicates[0].model.parameters()).device

    @property
    def epoch(self) -> int:
        """The last epoch that any replicate has finished."""
        return max(replicate.epoch for replicate in self.replicates)

    @property
    def active(self) -> list[Replicate]:
        """The replicates that are not finished; they are all at the same epoch."""
        return [replicate for replicate in self.replicates if not replicate.finished]

    @property
    def finished(self) -> bool:
        """Whether all replicates are."""
        return not self.active

    def save(self, directory: Path) -> None:
        """Write everything, whole or not at all."""
        document = {
            "state_version": STATE_VERSION,
            "fingerprint": self.fingerprint,
            "shuffle": self.shuffle,
            "run_id": self.run_id,
            "epoch": self.epoch,
            "finished": self.finished,
            "replicates": [replicate.state() for replicate in self.replicates],
        }
        save_plain(directory / STATE, document)

    def restore(self, directory: Path) -> bool:
        """Restore what was saved in `directory`; return whether there was anything.

        Raises:
            DataError: the state is damaged.
            IncompatibleCheckpointError: it is of another training; the message names the first difference.
        """
        path = directory / STATE
        if not path.is_file():
            return False
        document = _load(path)
        old, new = document["fingerprint"], self.fingerprint
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise IncompatibleCheckpointError(
                    f"{directory}: holds a training with {key} {old.get(key)}, not {new.get(key)}; "
                    "give another --out or delete the directory"
                )
        for replicate, state in zip(self.replicates, document["replicates"], strict=True):
            replicate.restore(state)
        self.run_id = self.run_id or document["run_id"]
        self.shuffle = document["shuffle"]
        return True


def _copied(value: Any) -> Any:
    """Return a copy of nested dicts and lists in which all tensors are copies on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def training_directory(settings: TrainSettings, features: FeatureSet, split: Split) -> Path:
    """Return the directory of a training; trainings that can give different models have different ones."""
    decisive = settings.decisive() | {"device": choose_device(settings.device).name, "split": split.digest}
    decisive["features"] = features.digest_of(settings.modality)
    key = hashlib.sha256(repr(sorted(decisive.items())).encode()).hexdigest()[:12]
    name = model_name(features.encoders, settings.modality)
    return Path(settings.out) / f"{features.encoders['dna']['name']}+{name}" / key


def find_resumed(settings: TrainSettings, directory: Path) -> TrainingStatus | None:
    """Return the status of the training in `directory`, None if there is none.

    Raises:
        UsageError: `--resume` names another run than that of this training.
        DataError: its state is damaged.
    """
    known = find_training(directory)
    if settings.resume and (known is None or known.run_id != settings.resume):
        found = known.run_id if known else "none"
        raise UsageError(f"--resume {settings.resume}: the training in {directory} is of run {found}")
    return known


def find_training(directory: Path) -> TrainingStatus | None:
    """Return the status of the training in `directory`, None if there is none.

    Raises:
        DataError: its state is damaged.
    """
    path = directory / STATE
    if not path.is_file():
        return None
    document = _load(path)
    return TrainingStatus(document["run_id"], document["epoch"], document["finished"])


def mark_reported(directory: Path, epoch: int) -> None:
    """Record that an epoch was reported to the caller."""
    write_text(directory / REPORTED, f"{epoch}\n")


def last_reported(directory: Path) -> int:
    """Return the last epoch that was certainly reported to the caller, 0 if none was.

    Raises:
        DataError: the record of it is damaged.
    """
    path = directory / REPORTED
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else "0"
    if not text.isdecimal():
        raise DataError(f"{path}: holds {text[:20]!r} instead of a number; delete {directory} and train again")
    return int(text)


def _load(path: Path) -> dict[str, Any]:
    document = load_plain(path)
    if not isinstance(document, dict) or document.get("state_version") != STATE_VERSION:
        raise DataError(f"{path}: not a training state that this virnuc reads; delete {path.parent} and train again")
    return document
