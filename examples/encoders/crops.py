"""Batches of crops for pretraining, a pure function of seed and step, so that a run can be resumed at any step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from examples.encoders.genes import CLASSES, UNKNOWN, Genes, residue_of_codons
from examples.encoders.model import MASK
from virnuc.encoders.table import load_encoder
from virnuc.encoders.tokens import ESM_VOCABULARY
from virnuc.runtime import derived_seed

CLS, EOS, X = (ESM_VOCABULARY.index(token) for token in ("<cls>", "<eos>", "X"))
FIRST_RESIDUE = ESM_VOCABULARY.index("L")  # residues 0 to 19 are tokens 4 to 23
CODONS = np.array([*("".join(bases) for bases in product("ACGT", repeat=3)), "NNN"])  # text of codons 0 to 64
COMPOSITION = load_encoder("codon_phase")


@dataclass(frozen=True)
class Batch:
    """Crops of equal length."""

    tokens: Tensor  # [n, residues + 2] int64, the true ones
    corrupted: Tensor  # [n, residues + 2] int64, the network's input
    hidden: Tensor  # [n, residues + 2] bool, positions to be predicted
    classes: Tensor  # [n] int64, index into CLASSES
    composition: Tensor  # [n, 192] float32, codon-phase composition of the DNA


@dataclass(frozen=True)
class Sampling:
    """How crops are drawn and corrupted: first short ones, which are cheap, then those of a 300 bp chunk."""

    lengths: tuple[tuple[int, int, int], ...] = ((0, 24, 48), (6000, 60, 98))  # first step; residues, from, to
    per_class: tuple[int, int, int] = (10, 50, 4)  # crops of a batch: viral, prokaryote, eukaryote
    predicted: float = 0.15  # share of residues to be predicted
    masked: float = 0.7  # share of these that is masked
    mutated: float = 0.2  # share of these that becomes a random residue; the others stay


def dna(codons: np.ndarray) -> list[str]:
    """Return the DNA of crops, given as codons [n, length], as text."""
    return ["".join(row) for row in CODONS[codons].tolist()]


class Crops:
    """Draws batches; all genes of a class are drawn once before any is drawn again."""

    def __init__(self, genes: Genes, sampling: Sampling, seed: int) -> None:
        """Use the genes that are long enough for the longest crop."""
        self.genes, self.sampling, self.seed = genes, sampling, seed
        self.long_enough = genes.lengths >= max(longest for _, _, longest in sampling.lengths)  # [genes] bool
        self.rows = [np.flatnonzero(self.long_enough & (genes.classes == number)) for number in range(len(CLASSES))]
        self.token_of_codon = residue_of_codons().astype(np.int64) + FIRST_RESIDUE
        self.token_of_codon[residue_of_codons() == UNKNOWN] = X
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def batch(self, step: int) -> Batch:
        """Return the batch of `step`, from 0."""
        generator = np.random.default_rng(derived_seed(self.seed, "crops", step))
        shortest, longest = next(range_[1:] for range_ in reversed(self.sampling.lengths) if step >= range_[0])
        length = int(generator.integers(shortest, longest + 1))
        rows = np.concatenate([self._chosen(number, step) for number in range(len(CLASSES))])
        offsets = (generator.random(len(rows)) * (self.genes.lengths[rows] - length + 1)).astype(np.int64)
        places = (self.genes.starts[rows] + offsets)[:, None] + np.arange(length)
        codons = self.genes.codons[places]
        tokens = np.full((len(rows), length + 2), EOS)
        tokens[:, 0], tokens[:, 1:-1] = CLS, self.token_of_codon[codons]
        hidden, corrupted = self._corrupt(tokens, generator)
        classes = self.genes.classes[rows].astype(np.int64)
        drawn = map(torch.from_numpy, (tokens, corrupted, hidden, classes))
        return Batch(*drawn, COMPOSITION.embed(dna(codons)))

    def seen(self, steps: int) -> list[int]:
        """Return how many genes of each class have been drawn at least once in `steps` steps."""
        return [min(steps * n, len(rows)) for n, rows in zip(self.sampling.per_class, self.rows, strict=True)]

    def frequency_loss(self, batches: Sequence[Batch]) -> float:
        """Return the loss at the hidden positions of `batches` if residues were predicted by their frequencies.

        These are frequencies in the genes that crops are drawn from, weighted by the classes' shares in `batches`.
        """
        frequencies = np.stack([self._frequencies(number) for number in range(len(CLASSES))])
        classes = torch.cat([batch.classes for batch in batches])
        mixed = np.bincount(classes.numpy(), minlength=len(CLASSES)) / len(classes) @ frequencies
        letters = torch.cat([batch.tokens[batch.hidden] for batch in batches]).numpy()
        return float(-np.log(mixed[letters]).mean())

    def _frequencies(self, number: int) -> np.ndarray:
        counts = np.zeros(len(ESM_VOCABULARY))
        for row in self.rows[number][:20000]:
            codons = self.genes.codons[self.genes.starts[row] : self.genes.starts[row + 1]]
            counts += np.bincount(self.token_of_codon[codons], minlength=len(counts))
        return counts / counts.sum()

    def _chosen(self, number: int, step: int) -> np.ndarray:
        count, rows = self.sampling.per_class[number], self.rows[number]
        wanted = np.arange(step * count, (step + 1) * count)
        return np.array([self._order(number, place // len(rows))[place % len(rows)] for place in wanted.tolist()])

    def _order(self, number: int, epoch: int) -> np.ndarray:
        """Return the genes of a class in the order of one pass over them."""
        if (number, epoch) not in self._orders:
            self._orders.pop((number, epoch - 2), None)  # the previous one is kept: a batch may begin in it
            generator = np.random.default_rng(derived_seed(self.seed, "order", number, epoch))
            self._orders[number, epoch] = generator.permutation(self.rows[number])
        return self._orders[number, epoch]

    def _corrupt(self, tokens: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        sampling, residues = self.sampling, (tokens >= FIRST_RESIDUE) & (tokens < X)
        hidden = (generator.random(tokens.shape) < sampling.predicted) & residues
        fate = generator.random(tokens.shape)
        corrupted = np.where(hidden & (fate < sampling.masked), MASK, tokens)
        mutated = hidden & (fate >= sampling.masked) & (fate < sampling.masked + sampling.mutated)
        corrupted[mutated] = generator.integers(FIRST_RESIDUE, X, int(mutated.sum()))
        return hidden, corrupted
