"""Evidence that a reading frame codes: its protein occurs in an annotated CDS translation of the same record."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_WORD = 12  # letters; 5 bits each fit into 60 bits


class CodingEvidence:
    """The annotated proteins of one genome, indexed by their words so that a look-up does not scan them all."""

    def __init__(self, translations: Iterable[str]) -> None:
        self._text = "*".join(translations)
        words = _words(self._text)
        self._order = np.argsort(words, kind="stable")
        self._sorted_words = words[self._order]

    def supports(self, proteins: list[str]) -> np.ndarray:
        """Return, as bool `[n]`, which of the proteins occur within one annotated protein."""
        supported = np.array([len(protein) < _WORD and protein in self._text for protein in proteins], dtype=bool)
        long = [index for index, protein in enumerate(proteins) if len(protein) >= _WORD]
        if not long:
            return supported
        first = _words("".join(proteins[index][:_WORD] for index in long))[::_WORD]
        begin = np.searchsorted(self._sorted_words, first, side="left")
        end = np.searchsorted(self._sorted_words, first, side="right")
        for index, lower, upper in zip(long, begin.tolist(), end.tolist(), strict=True):
            protein = proteins[index]
            supported[index] = any(self._text.startswith(protein, at) for at in self._order[lower:upper].tolist())
        return supported


def _words(text: str) -> np.ndarray:
    """Return each window of `_WORD` letters as one integer, int64 `[max(0, len(text) - _WORD + 1)]`.

    Letters differ in their lowest five bits, `*` included; a rare clash costs one more comparison.
    """
    letters = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64) & 31
    count = max(0, len(letters) - _WORD + 1)
    words = np.zeros(count, dtype=np.int64)
    for offset in range(_WORD):
        words = words << 5 | letters[offset : offset + count]
    return words
