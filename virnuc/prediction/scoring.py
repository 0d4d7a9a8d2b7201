"""The scorer: chunks of DNA to scores, by the encoders and the classifier that were trained together.

The registered model and the `predict` stage both use it, so they agree. A chunk may have several open
frames; its two scores are the highest non-viral and the highest viral one among them, and it is viral if the
viral score is at least the other, as in VirNucPro. In a chunk without an open frame the longest open reading frame is
scored. A companion scores chunks, alone or together with their frames, if that had a clearly lower log loss on this
model's validation chunks of the same status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from virnuc.encoders import Encoder
from virnuc.errors import DataError, DimensionError
from virnuc.prediction.chunks import ANSWERED, SCORED, Piece, cut
from virnuc.prediction.companion import COMPANION, FRAMES, MEAN, METHODS, Companion
from virnuc.sequences.translation import FRAME_NAMES
from virnuc.settings import PredictSettings
from virnuc.training.classifier import AT_ONCE, Classifier, classify

BATCH_TOKENS = PredictSettings.batch_tokens


@dataclass(frozen=True)
class Scorer:
    """A classifier in evaluation mode with the encoders whose vectors it was trained on."""

    classifier: Classifier
    encoders: tuple[Encoder, ...]  # in the order of the classifier's input: DNA, then protein; or one of them
    chunk_size: int  # bp, of the training chunks
    temperature: float = 1.0  # divides the logits
    device: str = "cpu"
    companion: Companion | None = None  # classifies vectors of the DNA encoder
    methods: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(ANSWERED, FRAMES))  # by status

    def __post_init__(self) -> None:
        """Raise a DimensionError if encoders and classifiers do not fit together."""
        width, wanted = sum(encoder.dimension for encoder in self.encoders), self.classifier.input_dim
        if width != wanted:
            names = " + ".join(encoder.name for encoder in self.encoders)
            raise DimensionError(f"the classifier takes {wanted} values, but {names} give {width}")
        usable = METHODS if self.companion else (FRAMES,)
        if tuple(self.methods) != ANSWERED or not set(self.methods.values()) <= set(usable):
            raise DataError(f"chunks cannot be scored by {dict(self.methods)}; register the model again")
        if self.companion is not None and self.companion.classifier.input_dim != self.dna_encoder.dimension:
            wanted, width = self.companion.classifier.input_dim, self.dna_encoder.dimension
            raise DimensionError(f"the companion takes {wanted} values, but {self.dna_encoder.name} gives {width}")

    @property
    def dna_encoder(self) -> Encoder:
        """The encoder that the companion shares.

        Raises:
            DataError: there is none.
        """
        if self.encoders[0].kind != "dna":
            raise DataError("a classifier of proteins alone cannot have a companion: it has no DNA encoder to share")
        return self.encoders[0]

    def tokens_at_once(self, batch_tokens: int) -> list[int]:
        """Return the actual maximum number of tokens in a batch of each encoder."""
        return [encoder.tokens_at_once(batch_tokens) for encoder in self.encoders]

    def score(self, chunks: Sequence[str], batch_tokens: int = BATCH_TOKENS) -> pd.DataFrame:
        """Return a row for each chunk of upper-case IUPAC letters, in their order.

        Columns: `status`; `scored_by`, one of METHODS, empty where there is no score; `score1` and `score2`, float64,
        the highest non-viral and viral score of its frames, or the companion's, or the mean of both, NaN if there is
        none; `probability`, 0.5 plus half of score2 - score1, at least 0.5 if and only if the chunk is viral; `frame`,
        the one with the highest score of either class; `frames`, the number scored. Open frames are always scored, for
        VirNucPro's files; a chunk without one that the companion alone scores has an empty `frame` and 0 `frames`.
        """
        return self.score_frames(chunks, batch_tokens)[0]

    def score_frames(self, chunks: Sequence[str], batch_tokens: int = BATCH_TOKENS) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the rows of `score`, and the viral score of each frame as float64 `[n, 6]`, F1 to R3, NaN for none."""
        statuses, pieces = cut(chunks)
        table = pd.DataFrame({"status": statuses, "score1": np.nan, "score2": np.nan, "frame": "", "frames": 0})
        table.insert(1, "scored_by", table["status"].map(self.methods).fillna(""))
        methods = table["scored_by"].to_numpy()
        pieces = [piece for piece in pieces if statuses[piece.chunk] == SCORED or methods[piece.chunk] != COMPANION]
        probabilities = self._probabilities(pieces, batch_tokens)
        if pieces:
            best = _best_of_chunk(pieces, probabilities)
            table.loc[best.index, best.columns] = best
        read = np.flatnonzero(np.isin(methods, (COMPANION, MEAN)))
        if self.companion is not None and len(read):
            letters = [chunks[number] for number in read.tolist()]
            own = self.companion.probabilities(self.dna_encoder, letters, batch_tokens, self.device)
            of_frames = table.loc[read, ["score1", "score2"]].to_numpy()
            table.loc[read, ["score1", "score2"]] = np.where(methods[read, None] == MEAN, (own + of_frames) / 2, own)
        lead = table["score2"] - table["score1"]
        probability = np.where(lead >= 0, 0.5 + lead / 2, np.minimum(0.5 + lead / 2, np.nextafter(0.5, 0)))
        table.insert(4, "probability", probability)
        viral = np.full((len(chunks), len(FRAME_NAMES)), np.nan)
        for piece, (_, score) in zip(pieces, probabilities.tolist(), strict=True):
            viral[piece.chunk, FRAME_NAMES.index(piece.frame)] = score
        return table, viral

    def _probabilities(self, pieces: Sequence[Piece], batch_tokens: int) -> np.ndarray:
        """Return non-viral and viral probability of each piece, as float64 `[n, 2]`."""
        if not pieces:
            return np.zeros((0, 2))
        halves = [encoder.embed(_texts(pieces, encoder.kind), batch_tokens=batch_tokens) for encoder in self.encoders]
        features = torch.cat(halves, dim=1)  # [n, d] float32
        if not torch.isfinite(features).all():
            raise DataError("an encoder gave NaN or infinite values; check its weights with doctor")
        logits = classify(self.classifier, features.split(AT_ONCE), len(features), self.device)
        return torch.softmax(logits / self.temperature, dim=1).numpy()


def _best_of_chunk(pieces: Sequence[Piece], probabilities: np.ndarray) -> pd.DataFrame:
    """Return both highest scores, the frame with the higher of them and the number of frames, by chunk."""
    chunk = np.array([piece.chunk for piece in pieces])
    first = np.flatnonzero(np.r_[True, chunk[1:] != chunk[:-1]])  # pieces are in the order of chunks
    best = np.maximum.reduceat(probabilities, first)  # [chunks, 2]
    counts = np.diff(np.append(first, len(chunk)))
    decisive = np.repeat((best[:, 1] >= best[:, 0]).astype(int), counts)
    won = probabilities[np.arange(len(chunk)), decisive] == np.repeat(best.max(axis=1), counts)
    winner = np.minimum.reduceat(np.where(won, np.arange(len(chunk)), len(chunk)), first)
    frames = [pieces[number].frame for number in winner]
    columns = {"score1": best[:, 0], "score2": best[:, 1], "frame": frames, "frames": counts}
    return pd.DataFrame(columns, index=chunk[first])


def _texts(pieces: Sequence[Piece], kind: str) -> list[str]:
    return [piece.nucleotide if kind == "dna" else piece.protein for piece in pieces]
