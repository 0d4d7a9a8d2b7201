"""The directory of a training, and what an earlier start of the same command left in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from virnuc.errors import UsageError
from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import choose_device
from virnuc.settings import TrainSettings
from virnuc.splits.assignment import Split
from virnuc.training.checkpoint import model_name
from virnuc.training.state import Unfinished, find_training


def training_directory(settings: TrainSettings, features: FeatureSet, split: Split) -> Path:
    """Return the training's directory: another one for each training that can give another model."""
    decisive = settings.decisive() | {"device": choose_device(settings.device).name, "split": split.digest}
    decisive["features"] = features.digest_of(settings.modality)
    key = hashlib.sha256(repr(sorted(decisive.items())).encode()).hexdigest()[:12]
    name = model_name(features.encoders, settings.modality)
    return Path(settings.out) / f"{features.encoders['dna']['name']}+{name}" / key


def find_earlier(settings: TrainSettings, directory: Path) -> Unfinished | None:
    """Return the training that was begun in `directory`, None if there is none.

    Raises:
        UsageError: `--resume` asks for another run than that training's.
    """
    known = find_training(directory)
    if settings.resume and (known is None or known.run_id != settings.resume):
        found = known.run_id if known else "none"
        raise UsageError(f"--resume {settings.resume}: the training in {directory} is of run {found}")
    return known
