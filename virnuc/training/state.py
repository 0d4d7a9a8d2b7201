"""The state that a training needs to resume, saved as a whole in its directory after every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from virnuc.errors import DataError, IncompatibleCheckpointError
from virnuc.runtime import derived_seed
from virnuc.settings import TrainSettings
from virnuc.storage.files import write_text
from virnuc.storage.tensors import load_plain, save_plain
from virnuc.training.classifier import Classifier

STATE, REPORTED = "training_state.pt", "reported_epoch.txt"
STATE_VERSION = 3


@dataclass(frozen=True)
class EpochRecord:
    """A finished epoch."""

    epoch: int  # from 1
    metrics: dict[str, float]  # by MLflow's keys
    seed: int = 0  # of the replicate
    in_doubt: bool = False  # it was finished before an interruption and may have been reported already


@dataclass(frozen=True)
class Unfinished:
    """What `find_training` knows about a directory."""

    run_id: str
    epoch: int  # the last one finished
    finished: bool


@dataclass
class EarlyStopping:
    """Counts the epochs without a lower validation loss."""

    patience: int
    best_loss: float = float("inf")
    best_epoch: int = 0
    waited: int = 0

    def improves(self, loss: float, epoch: int) -> bool:
        """Record an epoch's loss; return whether it is the lowest so far."""
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
    """One of several trainings that differ in the seed alone."""

    seed: int
    model: Classifier
    optimizer: torch.optim.SGD
    scheduler: torch.optim.lr_scheduler.StepLR
    stopping: EarlyStopping
    epoch: int = 0  # the last one finished
    finished: bool = False
    best: dict[str, Any] = field(default_factory=dict)  # copies of model and optimizer at the best epoch
    history: list[dict[str, float]] = field(default_factory=list)  # metrics of each epoch

    @classmethod
    def begin(cls, seed: int, settings: TrainSettings, width: int, device: torch.device) -> Replicate:
        """Return a training before its first epoch, its weights drawn by its seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "weights"))
            model = Classifier(width, settings.hidden_dim, dropout=settings.dropout).to(device)
        # A CUDA graph reads the learning rate from the device's memory.
        rate = torch.tensor(settings.lr, device=device) if device.type == "cuda" else settings.lr
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=settings.momentum, fused=True)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, settings.step_size, settings.gamma)
        return cls(seed, model, optimizer, scheduler, EarlyStopping(settings.patience))

    @property
    def rate(self) -> float:
        """The learning rate of the next epoch."""
        return float(self.optimizer.param_groups[0]["lr"])

    def weights(self) -> dict[str, Any]:
        """Return copies of model and optimizer as they are, on the CPU."""
        # A state_dict is only a view of the weights, here even of all replicates' together: it must be copied.
        return _copied({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def conclude_epoch(self, metrics: dict[str, float], epochs: int) -> None:
        """Record a finished epoch, keep its weights if they are the best, and decide whether it was the last."""
        self.epoch += 1
        self.scheduler.step()
        if self.stopping.improves(metrics["val/loss"], self.epoch):
            self.best = self.weights()
        before = self.history[-1]["total_s"] if self.history else 0.0
        self.history.append(metrics | {"total_s": before + metrics["epoch_s"]})
        self.finished = self.stopping.exhausted or self.epoch == epochs

    def state(self) -> dict[str, Any]:
        """Return everything as plain values and tensors on the CPU; the best weights only where they are not these."""
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
        for group in self.optimizer.param_groups:  # on a GPU the rate is a tensor there; loading leaves it on the CPU
            if isinstance(group["lr"], torch.Tensor):
                group["lr"] = group["lr"].to(group["params"][0].device)
        self.scheduler.load_state_dict(state["scheduler"])
        self.stopping = EarlyStopping(**state["stopping"])
        for name in ("epoch", "finished", "history"):
            setattr(self, name, state[name])
        self.best = state["best"] or self.weights()


@dataclass
class Training:
    """All that changes while training."""

    replicates: list[Replicate]
    fingerprint: dict[str, Any]  # what decides the result: settings, digests of features and split, device
    shuffle: str = ""  # full or block, as chosen at the start
    run_id: str = ""  # the caller's, kept for it

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.replicates[0].model.parameters()).device

    @property
    def epoch(self) -> int:
        """The last epoch finished by any replicate."""
        return max(replicate.epoch for replicate in self.replicates)

    @property
    def active(self) -> list[Replicate]:
        """The replicates that are not finished; all of them are at the same epoch."""
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

    def restore(self, directory: Path, shuffle: str) -> bool:
        """Restore what was saved in `directory`, if `shuffle` (or auto) allows it; return whether there was anything.

        Raises:
            DataError: the state there is damaged or from another training; the message names the first difference.
        """
        path = directory / STATE
        if not path.is_file():
            return False
        document = _load(path)
        _check_same(directory, document["fingerprint"], self.fingerprint)
        if shuffle not in ("auto", document["shuffle"]):
            raise _another(directory, "shuffle", document["shuffle"], shuffle)
        for replicate, state in zip(self.replicates, document["replicates"], strict=True):
            replicate.restore(state)
        self.run_id = self.run_id or document["run_id"]
        self.shuffle = document["shuffle"]
        return True


def _copied(value: Any) -> Any:
    """Return a copy of nested dicts and lists whose tensors are on the CPU and have storage of their own."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def find_training(directory: Path) -> Unfinished | None:
    """Return what is known of the training in `directory`, None if there is none.

    Raises:
        DataError: its state is damaged.
    """
    path = directory / STATE
    if not path.is_file():
        return None
    document = _load(path)
    return Unfinished(document["run_id"], document["epoch"], document["finished"])


def mark_reported(directory: Path, epoch: int) -> None:
    """Record that an epoch was reported to the caller."""
    write_text(directory / REPORTED, f"{epoch}\n")


def last_reported(directory: Path) -> int:
    """Return the last epoch that was certainly reported to the caller."""
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


def _check_same(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise _another(directory, key, old.get(key), new.get(key))


def _another(directory: Path, key: str, old: Any, new: Any) -> IncompatibleCheckpointError:
    return IncompatibleCheckpointError(
        f"{directory}: holds a training with {key} {old}, not {new}; give another --out or delete the directory"
    )
