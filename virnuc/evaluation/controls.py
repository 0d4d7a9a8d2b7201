"""Controls: the results of a model without the information that it should have learned from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from virnuc.evaluation.weighted import Floats
from virnuc.runtime import derived_seed

PERMUTATIONS = 1000
_CHANCE = 0.02  # how far the mean over permutations may lie from 0.5


def permuted_labels(predictions: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return ROC-AUC and balanced accuracy of the predictions against labels permuted among genomes.

    A genome's frames keep one label, so the spread is that of a model that knows nothing about genomes of these
    sizes. At chance the mean is 0.5; `permuted_p` is the share of permutations at least as good as the true labels.
    """
    codes, names = pd.factorize(predictions["genome"])
    labels = np.zeros(len(names))
    labels[codes] = predictions["label"]
    sizes = np.bincount(codes).astype(float)
    ranks = np.bincount(codes, weights=predictions["score"].rank().to_numpy()).astype(float)
    called = np.bincount(codes, weights=predictions["score"] >= 0.5).astype(float)
    rng = np.random.default_rng(derived_seed(seed, "permuted labels"))
    permuted = np.stack([rng.permutation(labels) for _ in range(PERMUTATIONS)])
    auc, balanced = _auc(permuted, sizes, ranks), _balanced_accuracy(permuted, sizes, called)
    true = float(_auc(labels[None], sizes, ranks)[0])
    low, high = np.nanquantile(auc, [0.025, 0.975])
    mean = float(np.nanmean(auc))
    return {
        "permuted_roc_auc": mean,
        "permuted_at_chance": float(low <= 0.5 <= high and abs(mean - 0.5) < _CHANCE),
        "permuted_roc_auc_low": float(low),
        "permuted_roc_auc_high": float(high),
        "permuted_balanced_accuracy": float(np.nanmean(balanced)),
        "permuted_p": float((1 + (auc >= true).sum()) / (1 + PERMUTATIONS)),
    }


def shuffle_sequences(frames: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the frames with the letters of `nucleotide` and `protein` in random order: same composition, no order.

    Each frame has its own seed, so the result does not depend on which frames are shuffled together or in what order.
    """
    shuffled = frames.copy()
    for column in ("nucleotide", "protein"):
        shuffled[column] = [
            _shuffled(text, derived_seed(seed, "shuffle", column, frame_id))
            for frame_id, text in zip(frames["frame_id"], frames[column], strict=True)
        ]
    return shuffled


def _shuffled(text: str, seed: int) -> str:
    letters = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.random.default_rng(seed).permutation(letters).tobytes().decode("ascii")


def _auc(labels: Floats, sizes: Floats, ranks: Floats) -> Floats:
    """Return the ROC-AUC for each row of `labels` [k, genomes], from the sums of ranks of each genome's frames."""
    viral = labels @ sizes
    with np.errstate(invalid="ignore", divide="ignore"):
        return (labels @ ranks - viral * (viral + 1) / 2) / (viral * (sizes.sum() - viral))


def _balanced_accuracy(labels: Floats, sizes: Floats, called: Floats) -> Floats:
    """Return the mean of recall and specificity for each row of `labels` [k, genomes]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = labels @ called / (labels @ sizes)
        specificity = (1 - labels) @ (sizes - called) / ((1 - labels) @ sizes)
    return (recall + specificity) / 2
