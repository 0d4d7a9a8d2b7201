"""The companion: a classifier of DNA alone, for chunks without an open frame.

The classifier of frames has seen no such chunk in training, and of such a chunk it can be given only the longest open
reading frame. The companion reads the DNA of the whole chunk, both strands; it was trained on the DNA vectors of the
same frames. Which of the two is better, or the mean of both, is measured for each model on validation chunks
(`fallback`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from virnuc.encoders import Encoder
from virnuc.errors import DataError
from virnuc.sequences.translation import reverse_complement
from virnuc.training.classifier import AT_ONCE, Classifier, classify

FRAMES = "frames"  # a chunk's open frames
LONGEST_ORF = "longest_orf"  # its longest run of codons without a stop
COMPANION = "companion"  # its DNA, by the companion
MEAN = "mean"  # the mean of the two above
FALLBACKS = (LONGEST_ORF, COMPANION, MEAN)  # how a chunk without an open frame can be scored, the simplest first


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
        strands = [strand for chunk in chunks for strand in (chunk, reverse_complement(chunk))]
        vectors = encoder.embed(strands, batch_tokens=batch_tokens)  # [2 n, dna] float32
        if not torch.isfinite(vectors).all():
            raise DataError("the DNA encoder gave NaN or infinite values; check its weights with doctor")
        logits = classify(self.classifier, vectors.split(AT_ONCE), len(vectors), device)
        return logits.reshape(len(chunks), 2, 2).mean(dim=1).numpy()

    def probabilities(self, encoder: Encoder, chunks: Sequence[str], batch_tokens: int, device: str) -> np.ndarray:
        """Return non-viral and viral probability of each chunk, as float64 `[n, 2]`."""
        logits = torch.from_numpy(self.logits(encoder, chunks, batch_tokens, device))
        return torch.softmax(logits / self.temperature, dim=1).numpy()
