"""Archaea or bacteria: predicted by tiara's first network, whose weights are read from its published wheel.

tiara (Karlicki, Antonowicz and Karnkowska, Bioinformatics 38, 344, 2022) cuts a sequence into pieces of 5,000 bp,
weights the counts of 6-mers by inverse document frequency, scales them to unit length, and averages the class
probabilities of a small network over the pieces. As the package pins torch 1.7, only its weights are used, which are
plain tensors. On the wheel's own test data (135 pieces of an archaeon, 156 of a bacterium, 300 of eukaryotes), all
predictions are those that it lists.

The order of the corpus's package shows how good the predictions are, as it lists clade by clade, archaea first. Its
first 52,000 genes belong to 7 of the 6,897 genomes predicted as bacteria and to 250 of the 394 predicted as archaea.
These 250 have 97 % of the bases of the 394; the other 144 have only a few genes each.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from examples.packages import Package

TIARA = Package(
    registry="pypi",
    name="tiara",
    version="1.0.2",
    file="tiara-1.0.2-py3-none-any.whl",
    sha256="27ee174b6f2a80a56619ead44a0525e5e69852097b75983a1eb89523023fc760",
    licence="MIT",
)
CLASSES = ("organelle", "bacteria", "unknown", "archaea", "eukarya")
BACTERIA, ARCHAEA = CLASSES.index("bacteria"), CLASSES.index("archaea")
PIECE = 5000  # bp
_K = 6
_BATCH = 512  # pieces
_DIGIT = np.full(256, -1, dtype=np.int64)
_DIGIT[np.frombuffer(b"ACGT", dtype=np.uint8)] = range(4)


class Tiara:
    """The network, and the weights of the 6-mers."""

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            weights = io.BytesIO(archive.read(f"tiara/models/nnet-models/first_nnet_kmer_{_K}.pkl"))
            kmers = io.BytesIO(archive.read(f"tiara/models/tfidf-models/k{_K}-first-stage/model.npy"))
        self._layers = torch.load(weights, weights_only=True, map_location="cpu")
        self._weights = np.load(kmers, allow_pickle=False).astype(np.float32)  # [4096]

    def probabilities(self, sequences: list[str]) -> np.ndarray:
        """Return the probability of each of CLASSES, averaged over each sequence's pieces, `[n, 5]` float32."""
        pieces = [(owner, piece) for owner, sequence in enumerate(sequences) for piece in _pieces(sequence)]
        totals = np.zeros((len(sequences), len(CLASSES)), dtype=np.float32)
        for start in range(0, len(pieces), _BATCH):
            owners, texts = zip(*pieces[start : start + _BATCH], strict=True)
            np.add.at(totals, list(owners), self._classify(texts))
        return totals / totals.sum(axis=1, keepdims=True)

    def archaeal(self, sequences: list[str]) -> np.ndarray:
        """Return the probability of archaea for sequences of prokaryotes, `[n]` float32; 0.5 if neither domain fits."""
        two = self.probabilities(sequences)[:, [ARCHAEA, BACTERIA]] + np.finfo(np.float32).tiny
        return two[:, 0] / two.sum(axis=1)

    def _classify(self, pieces: tuple[str, ...]) -> np.ndarray:
        counts = np.stack([_kmer_counts(piece) for piece in pieces]) * self._weights
        hidden = torch.from_numpy(counts / np.linalg.norm(counts, axis=1, keepdims=True))
        for layer in ("0", "3"):
            hidden = torch.relu(self._linear(hidden, layer))
        return torch.softmax(self._linear(hidden, "6"), dim=1).numpy()

    def _linear(self, inputs: torch.Tensor, layer: str) -> torch.Tensor:
        return torch.nn.functional.linear(inputs, self._layers[f"{layer}.weight"], self._layers[f"{layer}.bias"])


def _pieces(sequence: str) -> list[str]:
    """Return the complete pieces of a sequence, or the sequence itself if it is shorter than a piece."""
    starts = range(0, len(sequence) - PIECE + 1, PIECE)
    return [sequence[start : start + PIECE] for start in starts] or [sequence]


def _kmer_counts(piece: str) -> np.ndarray:
    """Return the count of each 6-mer of ACGT, in alphabetical order, `[4096]` float32."""
    digits = _DIGIT[np.frombuffer(piece.encode("ascii"), dtype=np.uint8)]
    windows = np.lib.stride_tricks.sliding_window_view(digits, _K)
    kmers = windows[(windows >= 0).all(axis=1)] @ (4 ** np.arange(_K)[::-1])
    return np.bincount(kmers, minlength=4**_K).astype(np.float32)
