"""Evidence that a reading frame codes: its protein occurs in an annotated CDS translation of the same record."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_K = 12  # letters of a k-mer; 5 bits each fit into 60 bits


class CodingEvidence:
    """The annotated proteins of one record, indexed by their k-mers so that a look-up does not scan them all."""

    def __init__(self, translations: Iterable[str]) -> None:
        self._text = "*".join(translations)
        kmers = _kmers(self._text)
        self._order = np.argsort(kmers, kind="stable")
        self._sorted_kmers = kmers[self._order]

    def supports(self, proteins: list[str]) -> np.ndarray:
        """Return, as bool `[n]`, which of the proteins occur within one annotated protein."""
        supported = np.array([len(protein) < _K and protein in self._text for protein in proteins], dtype=bool)
        long = [index for index, protein in enumerate(proteins) if len(protein) >= _K]
        if not long:
            return supported
        first = _kmers("".join(proteins[index][:_K] for index in long))[::_K]
        begin = np.searchsorted(self._sorted_kmers, first, side="left")
        end = np.searchsorted(self._sorted_kmers, first, side="right")
        for index, lower, upper in zip(long, begin.tolist(), end.tolist(), strict=True):
            protein = proteins[index]
            supported[index] = any(self._text.startswith(protein, at) for at in self._order[lower:upper].tolist())
        return supported


def _kmers(text: str) -> np.ndarray:
    """Return each window of `_K` letters as one integer, int64 `[max(0, len(text) - _K + 1)]`.

    Letters differ in their lowest five bits, `*` included; a rare clash costs one more comparison.
    """
    letters = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64) & 31
    count = max(0, len(letters) - _K + 1)
    kmers = np.zeros(count, dtype=np.int64)
    for offset in range(_K):
        kmers = kmers << 5 | letters[offset : offset + count]
    return kmers
