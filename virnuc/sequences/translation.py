"""Six-frame translation of a whole sequence at once, from which the frames of any of its chunks are cut.

The amino acid of the codon at every position of both strands is looked up in a table, and those of each phase are
joined to a text. A frame of a chunk is then a part of one of the six texts, open if the next stop lies beyond its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

FRAME_NAMES = ("F1", "F2", "F3", "R1", "R2", "R3")
STRANDS = ("F1", "R1")  # the frames that begin at the first base of each strand

_STANDARD_CODE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"  # NCBI table 1, bases in order TCAG
_IUPAC = {
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "K": "GT", "M": "AC", "S": "CG", "W": "AT",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
IUPAC_LETTERS = frozenset(_IUPAC)
_COMPLEMENT = str.maketrans("ACGTURYKMSWBDHVN", "TGCAAYRMKSWVHDBN")
_BIT = {"A": 1, "C": 2, "G": 4, "T": 8}


@dataclass(frozen=True)
class ReadingFrame:
    """One of the six ways to read a chunk in codons; `nucleotide` has exactly 3 x len(`protein`) bases."""

    name: str  # F1, F2, F3, R1, R2 or R3
    nucleotide: str  # 5' to 3' on the frame's own strand
    protein: str  # one letter a codon: * for a stop, X where the bases do not decide


def reverse_complement(dna: str) -> str:
    """Return the other strand of upper-case IUPAC `dna`, 5' to 3'."""
    return dna.translate(_COMPLEMENT)[::-1]


def read_in_frames(dna: str, names: Sequence[str]) -> list[str]:
    """Return upper-case IUPAC `dna` as each of the frames `names` begins, to the end of its strand: F2 is `dna[1:]`."""
    strands = {"F": dna, "R": reverse_complement(dna)}
    return [strands[name[0]][int(name[1]) - 1 :] for name in names]


class Translation:
    """All six translations of one sequence of upper-case IUPAC letters, or of several joined."""

    def __init__(self, dna: str) -> None:
        self.length = len(dna)
        forward = np.frombuffer(dna.encode("ascii"), dtype=np.uint8)
        self._strands = dna + _replaced(forward, _COMPLEMENTS)[::-1].tobytes().decode("ascii")
        self._other = np.flatnonzero(_replaced(forward, _NOT_ACGT).view(bool))  # bases other than ACGT
        letters = _translate(forward, self._other)
        self._width = letters.shape[1]
        self._stops = np.append(np.flatnonzero(letters == ord("*")), letters.size)  # places of stop codons in the text
        self._proteins = letters.tobytes().decode("ascii")

    def is_clean(self, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return, as bool `[n]`, which chunks have no base other than ACGT; they are given as for `is_open`."""
        clean: np.ndarray = np.searchsorted(self._other, starts) == np.searchsorted(self._other, starts + sizes)
        return clean

    def is_open(self, starts: np.ndarray, sizes: Any) -> np.ndarray:
        """Return, as bool `[n, 6]`, which frames of the chunks at `starts` hold a codon and no stop codon.

        Args:
            starts: of the chunks, int64 `[n]`.
            sizes: of the chunks in bp, one for all or int64 `[n]`.
        """
        sizes = np.broadcast_to(sizes, starts.shape)
        opened = np.empty((len(starts), 6), dtype=bool)
        for index in range(6):  # one after the other: neighbours look for neighbouring stops
            codons, first = _codons(sizes, index), self._protein(starts, sizes, index)
            opened[:, index] = (codons > 0) & (self._stops[np.searchsorted(self._stops, first)] >= first + codons)
        return opened

    def frame(self, start: int, size: int, index: int) -> ReadingFrame:
        """Return frame number `index` (0 to 5, in the order of FRAME_NAMES) of the chunk `[start, start + size)`."""
        codons = max(0, _codons(size, index))
        base, first = self._nucleotide(start, size, index), self._protein(start, size, index)
        return ReadingFrame(
            FRAME_NAMES[index], self._strands[base : base + 3 * codons], self._proteins[first : first + codons]
        )

    def nucleotides(self, starts: np.ndarray, sizes: np.ndarray, index: np.ndarray) -> list[str]:
        """Return the DNA of open frames, number `index[i]` of the chunk at `starts[i]`; all are int64 `[n]`."""
        return cut_texts(self._strands, self._nucleotide(starts, sizes, index), 3 * _codons(sizes, index))

    def proteins(self, starts: np.ndarray, sizes: np.ndarray, index: np.ndarray) -> list[str]:
        """Return the proteins of open frames, which are given as for `nucleotides`."""
        return cut_texts(self._proteins, self._protein(starts, sizes, index), _codons(sizes, index))

    def _first_base(self, start: Any, size: Any, index: Any) -> Any:
        """Return where a frame begins on its strand; a chunk begins on the reverse one at `length - size - start`."""
        return start + index // 3 * (self.length - size - 2 * start) + index % 3

    def _nucleotide(self, start: Any, size: Any, index: Any) -> Any:
        """Return where the DNA of a frame begins in the text of both strands."""
        return index // 3 * self.length + self._first_base(start, size, index)

    def _protein(self, start: Any, size: Any, index: Any) -> Any:
        """Return where the protein of a frame begins in the text of all translations."""
        codon, phase = divmod(self._first_base(start, size, index), 3)
        return (index // 3 * 3 + phase) * self._width + codon


def _codons(size: Any, index: Any) -> Any:
    return (size - index % 3) // 3


def cut_texts(text: str, begins: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Return the parts of a text that begin at `begins` and have `lengths` letters, both int64 `[n]`."""
    return [text[begin:end] for begin, end in zip(begins.tolist(), (begins + lengths).tolist(), strict=True)]


def _translate(dna: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the letters of the three phases of the forward, then of the reverse strand, uint8 `[6, ceil(length / 3)]`.

    Codon k of phase p begins at base 3 k + p of its strand; where fewer than three bases are left, the letter is X.

    Args:
        dna: upper-case IUPAC letters, ASCII uint8 `[length]`.
        other: where they are not A, C, G or T, int64.
    """
    length = len(dna)
    letters = np.full((6, -(-length // 3)), ord("X"), dtype=np.uint8)
    two = dna >> 1 & 3  # bits: A 0, C 1, T 2, G 3; wrong for other letters, whose codons are looked up below
    codons = two[:-2] << 4
    codons |= two[1:-1] << 2
    codons |= two[2:]
    for phase in range(3):
        own = codons[phase::3]
        letters[phase, : len(own)] = _replaced(own, _FORWARD_ACGT)
        letters[3 + (length - phase) % 3, : len(own)] = _replaced(own, _BACKWARD_ACGT)[::-1]
    around = np.unique(other[:, None] - np.arange(3))
    around = around[(around >= 0) & (around < len(codons))]
    first, second, third = (_BASE_BITS.take(dna[around + place]) for place in range(3))
    sets, back = first << 8 | second << 4 | third, length - 3 - around  # where the codon begins on the reverse strand
    letters[around % 3, around // 3] = _FORWARD.take(sets)
    letters[3 + back % 3, back // 3] = _BACKWARD.take(sets)
    return letters


def _replaced(values: np.ndarray, table: bytes) -> np.ndarray:
    """Return `table[value]` for each value, uint8; many times faster than `take`, which makes 8 bytes of each first."""
    return np.frombuffer(values.tobytes().translate(table), dtype=np.uint8)


def _base_bits() -> np.ndarray:
    """Return the set of bases that each ASCII letter may stand for, as bits, int16 `[256]`; 0 for other letters."""
    bits = np.zeros(256, dtype=np.int16)
    for letter, bases in _IUPAC.items():
        bits[ord(letter)] = sum(_BIT[base] for base in bases)
    return bits


def _codon_table() -> np.ndarray:
    """Return the letter for each three sets of bases, as uint8 `[16, 16, 16]`: X unless all choices agree."""
    decided = {"".join(codon): letter for codon, letter in zip(product("TCAG", repeat=3), _STANDARD_CODE, strict=True)}
    sets = ["".join(base for base in "ACGT" if _BIT[base] & bits) for bits in range(16)]
    table = np.full((16, 16, 16), ord("X"), dtype=np.uint8)
    for key in product(range(1, 16), repeat=3):
        letters = {decided["".join(codon)] for codon in product(*(sets[bits] for bits in key))}
        if len(letters) == 1:
            table[key] = ord(letters.pop())
    return table


def _on_other_strand(table: np.ndarray) -> np.ndarray:
    """Return the table for codons that are read backwards, from the sets of bases of the forward strand."""
    complement = [sum(8 >> place for place in range(4) if bits & 1 << place) for bits in range(16)]  # A-T, C-G
    return table[np.ix_(complement, complement, complement)].transpose(2, 1, 0)


_BASE_BITS = _base_bits()
_FORWARD = _codon_table().ravel()  # by the bits of the three bases
_BACKWARD = _on_other_strand(_FORWARD.reshape(16, 16, 16)).ravel()
_COMPLEMENTS = bytes(range(256)).decode("latin-1").translate(_COMPLEMENT).encode("latin-1")
_NOT_ACGT = bytes(letter not in b"ACGT" for letter in range(256))
_SETS_ACGT = np.array([1, 2, 8, 4])  # of the two bits of A, C, T and G
_CODONS_ACGT = (_SETS_ACGT[:, None, None] << 8 | _SETS_ACGT[:, None] << 4 | _SETS_ACGT).ravel()
_FORWARD_ACGT, _BACKWARD_ACGT = (table.take(_CODONS_ACGT).tobytes() * 4 for table in (_FORWARD, _BACKWARD))
