"""The companion: a classifier of the DNA of whole chunks, whether they have an open frame or not.

It was trained on both strands of all chunks of the training genomes. Whether chunks of a status are scored by it, by
the classifier of frames, or by the mean of both, is measured for each model on validation chunks (`choosing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from virnuc.encoders import Encoder
from virnuc.errors import DataError
from virnuc.sequences.translation import STRANDS, both_strands
from virnuc.training.classifier import AT_ONCE, Classifier, classify

FRAMES = "frames"  # by the classifier of frames: a chunk's open frames, or its longest open reading frame
COMPANION = "companion"  # by the companion
MEAN = "mean"  # by the mean of both probabilities
METHODS = (FRAMES, COMPANION, MEAN)  # the simplest first


@dataclass(frozen=True)
class Companion:
    """A classifier of DNA vectors in evaluation mode."""

    classifier: Classifier
    temperature: float = 1.0  # divides the logits

    def logits(self, encoder: Encoder, chunks: Sequence[str], batch_tokens: int, device: str) -> np.ndarray:
        """Return the logits of each chunk, the mean over its two strands, as float64 `[n, 2]`.

        Raises:
            DataError: the encoder gives values that are not finite.
        """
        strands = [strand for chunk in chunks for strand in both_strands(chunk)]
        vectors = encoder.embed(strands, batch_tokens=batch_tokens)  # [2 n, dna] float32
        if not torch.isfinite(vectors).all():
            raise DataError("the DNA encoder gave NaN or infinite values; check its weights with doctor")
        logits = classify(self.classifier, vectors.split(AT_ONCE), len(vectors), device)
        return logits.reshape(len(chunks), len(STRANDS), 2).mean(dim=1).numpy()

    def probabilities(self, encoder: Encoder, chunks: Sequence[str], batch_tokens: int, device: str) -> np.ndarray:
        """Return non-viral and viral probability of each chunk, as float64 `[n, 2]`."""
        logits = torch.from_numpy(self.logits(encoder, chunks, batch_tokens, device))
        return torch.softmax(logits / self.temperature, dim=1).numpy()
