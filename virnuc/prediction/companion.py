"""The companion: a classifier of the DNA of whole chunks, whether they have an open frame or not.

It was trained on all chunks of the training genomes, read on both strands and, if the DNA encoder depends on the
position of codons, in all six frames. Frames other than the gene's own give uncertain readings, so the readings of a
chunk are weighted by their confidence. Whether chunks of a status are scored by the companion, by
the classifier of frames, or by the mean of both is decided for each model on validation chunks (`choosing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from virnuc.encoders import Encoder, find_encoder
from virnuc.errors import DataError
from virnuc.sequences.translation import read_in_frames
from virnuc.training.checkpoint import Checkpoint
from virnuc.training.classifier import AT_ONCE, Classifier, classify

FRAMES = "frames"  # by the classifier of frames: a chunk's open frames, or its longest open reading frame
COMPANION = "companion"  # by the companion
MEAN = "mean"  # by the mean of both probabilities
METHODS = (FRAMES, COMPANION, MEAN)  # the simplest first
_LEAST_WEIGHT = 1e-12  # of a reading, so that the mean exists even if all readings are undecided


@dataclass(frozen=True)
class CompanionSource:
    """A companion to try."""

    checkpoint: Checkpoint
    origin: str  # models:/NAME/VERSION that it was registered as
    chunks: pd.DataFrame  # all validation chunks: chunk_id, genome, label, reason, nucleotide
    lacking: str = ""  # why there are no such chunks


@dataclass(frozen=True)
class Companion:
    """A classifier of DNA vectors in evaluation mode."""

    classifier: Classifier
    temperature: float = 1.0  # divides the logits

    def logits(self, encoder: Encoder, chunks: Sequence[str], batch_tokens: int, device: str) -> np.ndarray:
        """Return the logits of each chunk, the mean over its readings weighted by their squares, as float64 `[n, 2]`.

        Raises:
            DataError: the encoder gives values that are not finite.
        """
        readings = find_encoder(encoder.name).readings
        sequences = [dna for chunk in chunks for dna in read_in_frames(chunk, readings)]
        vectors = encoder.embed(sequences, batch_tokens=batch_tokens)  # [n * readings, dna] float32
        if not torch.isfinite(vectors).all():
            raise DataError("the DNA encoder gave NaN or infinite values; check its weights with doctor")
        logits = classify(self.classifier, vectors.split(AT_ONCE), len(vectors), device)
        margins = (logits[:, 1] - logits[:, 0]).reshape(len(chunks), len(readings))
        weights = margins.square() + _LEAST_WEIGHT
        margin = (margins * weights).sum(dim=1) / weights.sum(dim=1)
        return torch.stack((-margin / 2, margin / 2), dim=1).numpy()

    def probabilities(self, encoder: Encoder, chunks: Sequence[str], batch_tokens: int, device: str) -> np.ndarray:
        """Return non-viral and viral probability of each chunk, as float64 `[n, 2]`."""
        logits = torch.from_numpy(self.logits(encoder, chunks, batch_tokens, device))
        return torch.softmax(logits / self.temperature, dim=1).numpy()
