"""Composition encoders, which count k-mers: the controls that show what a classifier can do without a language model.

By chance, a k-mer over an alphabet of `a` letters is found at 1 / a^k of the positions. A vector holds
`a^k * count / positions - 1` for each k-mer: its relative excess over chance. These values are of the order of 1, like
a language model's output; with plain frequencies, around 0.003, a classifier would hardly learn at the published
learning rate. Positions whose k-mer contains a letter outside the alphabet (N, X) are not counted. A sequence without
any other position, too short or all N, gives zeros.

With three phases, k-mers that start at a codon's first, second and third base are counted separately, each phase over
its own positions, so that the first 64 of 192 values are a frame's codon usage. The phase is counted from the first
base, so the DNA must begin with a codon, as that of a frame does; for a whole chunk the caller chooses the frame.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from virnuc.encoders.interface import DEFAULT_BATCH_TOKENS, Encoder, EncoderProvenance, Tokens
from virnuc.encoders.tokens import ESM_VOCABULARY, IUPAC_BASES, encode_letters, letter_table
from virnuc.runtime import Progress, silent

BASES, RESIDUES = "ACGT", "ACDEFGHIKLMNPQRSTVWY"
_OUTSIDE = 255  # code of letters that are allowed but not counted: X, N and other IUPAC codes
_PROTEIN_LETTERS = "".join(token for token in ESM_VOCABULARY if len(token) == 1)


class CompositionEncoder(Encoder):
    """Counts k-mers over `alphabet`; the module's docstring has the formula."""

    def __init__(self, name: str, kind: str, alphabet: str, k: int, phases: int = 1) -> None:
        """Make an encoder with one value for each phase and each of the `len(alphabet) ** k` k-mers."""
        self.alphabet, self.k, self.phases = alphabet, k, phases
        allowed = sorted(set(IUPAC_BASES if kind == "dna" else _PROTEIN_LETTERS))
        codes = [alphabet.index(letter) if letter in alphabet else _OUTSIDE for letter in allowed]
        self._table = letter_table(allowed, codes)
        self._what = "a base or IUPAC code" if kind == "dna" else "a residue (upper case, no * or J)"
        definition = f"{kind} {alphabet} {k} a^k*count/places-1" + (f" in {phases} phases" if phases > 1 else "")
        self.provenance = EncoderProvenance(
            name=name,
            kind=kind,
            dimension=phases * len(alphabet) ** k,
            weights="none",
            weight_digest=hashlib.sha256(definition.encode()).hexdigest(),
            precision="fp32",
            licence="MIT",
        )

    def tokenise(self, sequences: Sequence[str], ids: Sequence[str] | None = None) -> Tokens:
        """Return the alphabet index of each letter; DNA is upper-cased first."""
        if self.kind == "dna":
            sequences = [sequence.upper() for sequence in sequences]
        return encode_letters(sequences, ids, self._table, self._what)

    def embed_tokens(
        self, tokens: Tokens, *, batch_tokens: int = DEFAULT_BATCH_TOKENS, progress: Progress = silent
    ) -> Tensor:
        """Return the scaled counts, [n, dimension] float32, computed 1,000 rows at a time to bound memory."""
        vectors = torch.empty(len(tokens), self.dimension)
        for first in range(0, len(tokens), 1000):
            last = min(first + 1000, len(tokens))
            vectors[first:last] = torch.from_numpy(self._scaled_counts(tokens, first, last))
            progress(self.name, last, len(tokens))
        return vectors

    def _scaled_counts(self, tokens: Tokens, first: int, last: int) -> np.ndarray:
        """Return the vectors of the sequences `first` to `last`, [last - first, dimension] float32."""
        starts = tokens.starts[first : last + 1] - tokens.starts[first]
        letters = tokens.flat[tokens.starts[first] : tokens.starts[last]].astype(np.int64)
        rows = np.repeat(np.arange(last - first), np.diff(starts))
        places = max(len(letters) - self.k + 1, 0)
        kmers, inside = np.zeros(places, dtype=np.int64), np.ones(places, dtype=bool)
        for offset in range(self.k):
            window = letters[offset : offset + places]
            kmers = kmers * len(self.alphabet) + window
            inside &= (window != _OUTSIDE) & (rows[offset : offset + places] == rows[:places])
        phase = (np.arange(places) - starts[rows[:places]]) % self.phases
        shape = (last - first, self.phases, len(self.alphabet) ** self.k)
        cells = (rows[:places] * shape[1] + phase) * shape[2] + kmers
        counts = np.bincount(cells[inside], minlength=math.prod(shape)).reshape(shape)
        total = counts.sum(axis=2, keepdims=True)
        scaled = np.where(total > 0, shape[2] * counts / np.maximum(total, 1) - 1, 0.0)
        return scaled.reshape(last - first, self.dimension).astype(np.float32)
