"""Archaea or bacteria: tiara's first network, read out of its published wheel.

tiara (Karlicki, Antonowicz and Karnkowska, Bioinformatics 38, 344, 2022) cuts a sequence into pieces of 5,000 bp,
weighs the 6-mers of each by their inverse document frequency, scales to length one, and averages the class
probabilities of a small network over the pieces. The package pins torch 1.7, so only its weights are used, which are
plain tensors. On the wheel's own test data (135 pieces of an archaeon, 156 of a bacterium, 300 of eukaryotes) all calls
are those that it lists. How good the calls are can be seen from the corpus's package, which lists clade by clade and
archaea first: of the 6,897 genomes called bacteria 7 lie among its first 52,000 genes, of the 394 called archaea 250,
which hold 97 % of their bases; the others are genomes with a few genes.
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
    """The network and the weights of the words."""

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            weights = io.BytesIO(archive.read(f"tiara/models/nnet-models/first_nnet_kmer_{_K}.pkl"))
            words = io.BytesIO(archive.read(f"tiara/models/tfidf-models/k{_K}-first-stage/model.npy"))
        self._layers = torch.load(weights, weights_only=True, map_location="cpu")
        self._words = np.load(words, allow_pickle=False).astype(np.float32)  # [4096]

    def probabilities(self, sequences: list[str]) -> np.ndarray:
        """Return the mean probability of each of CLASSES over each sequence's pieces, float32 `[n, 5]`."""
        pieces = [(owner, piece) for owner, sequence in enumerate(sequences) for piece in _pieces(sequence)]
        totals = np.zeros((len(sequences), len(CLASSES)), dtype=np.float32)
        for start in range(0, len(pieces), _BATCH):
            owners, texts = zip(*pieces[start : start + _BATCH], strict=True)
            np.add.at(totals, list(owners), self._classify(texts))
        return totals / totals.sum(axis=1, keepdims=True)

    def archaeal(self, sequences: list[str]) -> np.ndarray:
        """Return how probably each sequence of a prokaryote is of archaea, float32 `[n]`; 0.5 if neither fits."""
        two = self.probabilities(sequences)[:, [ARCHAEA, BACTERIA]] + np.finfo(np.float32).tiny
        return two[:, 0] / two.sum(axis=1)

    def _classify(self, pieces: tuple[str, ...]) -> np.ndarray:
        counts = np.stack([_word_counts(piece) for piece in pieces]) * self._words
        hidden = torch.from_numpy(counts / np.linalg.norm(counts, axis=1, keepdims=True))
        for layer in ("0", "3"):
            hidden = torch.relu(self._linear(hidden, layer))
        return torch.softmax(self._linear(hidden, "6"), dim=1).numpy()

    def _linear(self, inputs: torch.Tensor, layer: str) -> torch.Tensor:
        return torch.nn.functional.linear(inputs, self._layers[f"{layer}.weight"], self._layers[f"{layer}.bias"])


def _pieces(sequence: str) -> list[str]:
    """Return the whole pieces of a sequence, or the sequence if it is shorter than one."""
    starts = range(0, len(sequence) - PIECE + 1, PIECE)
    return [sequence[start : start + PIECE] for start in starts] or [sequence]


def _word_counts(piece: str) -> np.ndarray:
    """Return how often each word of ACGT occurs, in alphabetical order, float32 `[4096]`."""
    digits = _DIGIT[np.frombuffer(piece.encode("ascii"), dtype=np.uint8)]
    windows = np.lib.stride_tricks.sliding_window_view(digits, _K)
    words = windows[(windows >= 0).all(axis=1)] @ (4 ** np.arange(_K)[::-1])
    return np.bincount(words, minlength=4**_K).astype(np.float32)
