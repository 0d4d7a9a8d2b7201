"""Composition encoders: what a classifier can do without a language model, and the DNA side of the default.

A word of k letters from an alphabet of a letters is expected in 1 / a^k of the places. A vector holds, for each
word, `a^k * count / places - 1`: the relative surplus over what chance would give. Its values are around 1 in
size, like a language model's output, where bare frequencies would be around 0.003 and the published learning
rate could not move a classifier. Words with a letter outside the alphabet (N, X) count neither as a word nor as a
place; a sequence without any place, one too short or all N, gives zeros: nothing is known of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from virnuc.encoders.interface import DEFAULT_BATCH_TOKENS, Encoder, EncoderProvenance, Progress, Tokens, name_sequences
from virnuc.encoders.tokens import ESM_VOCABULARY, IUPAC_BASES, encode_letters, letter_table

BASES, RESIDUES = "ACGT", "ACDEFGHIKLMNPQRSTVWY"
_OUTSIDE = 255  # code of a letter that is allowed but not counted: N, X and other IUPAC codes
_PROTEIN_LETTERS = "".join(token for token in ESM_VOCABULARY if len(token) == 1)


class CompositionEncoder(Encoder):
    """Counts words of `word` letters of `alphabet`; the module's docstring has the formula."""

    def __init__(self, name: str, kind: str, alphabet: str, word: int) -> None:
        """Make the encoder `name`, which has one value for each of `len(alphabet) ** word` words."""
        self.alphabet, self.word = alphabet, word
        allowed = sorted(set(IUPAC_BASES if kind == "dna" else _PROTEIN_LETTERS))
        codes = [alphabet.index(letter) if letter in alphabet else _OUTSIDE for letter in allowed]
        self._table = letter_table(allowed, codes)
        self._what = "a base or IUPAC code" if kind == "dna" else "a residue (upper case, no * or J)"
        definition = f"{kind} {alphabet} {word} a^k*count/places-1"
        self.provenance = EncoderProvenance(
            name=name,
            kind=kind,
            dimension=len(alphabet) ** word,
            weights="none",
            weight_digest=hashlib.sha256(definition.encode()).hexdigest(),
            precision="fp32",
            licence="MIT",
        )

    def tokenise(self, sequences: Sequence[str], ids: Sequence[str] | None = None) -> Tokens:
        """Return the alphabet index of each letter; DNA is upper-cased first."""
        names = name_sequences(sequences, ids)
        if self.kind == "dna":
            sequences = [sequence.upper() for sequence in sequences]
        return encode_letters(sequences, names, self._table, self._what)

    def embed_tokens(
        self, tokens: Tokens, *, batch_tokens: int = DEFAULT_BATCH_TOKENS, progress: Progress | None = None
    ) -> Tensor:
        """Return the scaled counts, [n, dimension] float32; a fixed number of rows at a time bounds memory."""
        vectors = torch.empty(len(tokens), self.dimension)
        for first in range(0, len(tokens), 1000):
            last = min(first + 1000, len(tokens))
            vectors[first:last] = torch.from_numpy(self._scaled_counts(tokens, first, last))
            if progress is not None:
                progress(last - first)
        return vectors

    def _scaled_counts(self, tokens: Tokens, first: int, last: int) -> np.ndarray:
        starts = tokens.starts[first : last + 1]
        letters = tokens.flat[starts[0] : starts[-1]].astype(np.int64)
        rows = np.repeat(np.arange(last - first), np.diff(starts))
        places = max(len(letters) - self.word + 1, 0)
        words, inside = np.zeros(places, dtype=np.int64), np.ones(places, dtype=bool)
        for offset in range(self.word):
            window = letters[offset : offset + places]
            words = words * len(self.alphabet) + window
            inside &= (window != _OUTSIDE) & (rows[offset : offset + places] == rows[:places])
        cells = rows[:places][inside] * self.dimension + words[inside]
        counts = np.bincount(cells, minlength=(last - first) * self.dimension).reshape(last - first, self.dimension)
        total = counts.sum(axis=1, keepdims=True)
        return np.where(total > 0, self.dimension * counts / np.maximum(total, 1) - 1, 0.0).astype(np.float32)
