"""The learning curve: the same training on growing shares of the training genomes.

It shows whether more genomes would help. A smaller share is a subset of a larger one, all are validated on the same
frames, and each training can be interrupted and resumed like any other.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import Progress, counted
from virnuc.settings import TrainSettings
from virnuc.splits.assignment import Split
from virnuc.training.data import match
from virnuc.training.run import TrainingResult, train

SHARES = (0.125, 0.25, 0.5)  # of the training genomes; 1 is the training itself


def learning_curve(
    features: FeatureSet,
    split: Split,
    settings: TrainSettings,
    whole: TrainingResult,
    directory: Path,
    progress: Progress,
) -> pd.DataFrame:
    """Train on each share, each in a folder of its own below `directory`.

    Args:
        features: as in `train`.
        split: as in `train`.
        settings: as in `train`.
        whole: the training on all genomes.
        directory: the directory of that training.
        progress: told how many shares are done.

    Returns:
        A row for each share and replicate: `share`; `genomes` and `frames`, the numbers trained on; `seed`; and
        `loss`, `accuracy` and `roc_auc` of validation.

    Raises:
        DataError: see `train`.
    """
    rows = []
    for share in counted((*SHARES, 1.0), len(SHARES) + 1, "curve", progress):
        train_part = match(features, split, settings.modality, share, settings.seed).train
        result = whole
        if share < 1:
            result = train(features, split, settings, directory / "learning_curve" / f"{share:g}", share=share)
        for own in result.replicates:
            measured = {name: own.metrics[f"val/{name}"] for name in ("loss", "accuracy", "roc_auc")}
            size = {"share": share, "genomes": train_part.genomes, "frames": len(train_part)}
            rows.append(size | {"seed": own.seed} | measured)
    return pd.DataFrame(rows)
