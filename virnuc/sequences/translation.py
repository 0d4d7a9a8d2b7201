"""Six-frame translation of a whole sequence at once, from which the frames of any of its chunks are cut.

The amino acid of the codon at every position of both strands is looked up in one table. A frame of a chunk is
then a strided view, and whether it holds a stop codon is one comparison with the next stop of that phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

FRAME_NAMES = ("F1", "F2", "F3", "R1", "R2", "R3")

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

    @property
    def strand(self) -> str:
        """`+` for F1 to F3, `-` for R1 to R3."""
        return "+" if self.name[0] == "F" else "-"

    @property
    def offset(self) -> int:
        """Bases (0 to 2) between the strand's start and the first codon."""
        return int(self.name[1]) - 1


def reverse_complement(dna: str) -> str:
    """Return the other strand of upper-case IUPAC `dna`, 5' to 3'."""
    return dna.translate(_COMPLEMENT)[::-1]


def six_frames(dna: str) -> list[ReadingFrame]:
    """Return the six reading frames of upper-case IUPAC `dna`, stops included, in the order F1 to R3."""
    translation = Translation(dna)
    return [translation.frame(0, len(dna), index) for index in range(6)]


class Translation:
    """All six translations of one sequence of upper-case IUPAC letters."""

    def __init__(self, dna: str) -> None:
        self.length = len(dna)
        self._strands = (dna, reverse_complement(dna))
        amino_acids = [_codons(strand) for strand in self._strands]
        self._proteins = [[codons[phase::3].tobytes().decode() for phase in range(3)] for codons in amino_acids]
        self._next_stop = [_next_stops(codons) for codons in amino_acids]

    def is_open(self, starts: np.ndarray, size: int) -> np.ndarray:
        """Return, as bool `[n, 6]`, which frames of the chunks at `starts` hold a codon and no stop codon."""
        opened = np.zeros((len(starts), 6), dtype=bool)
        for index in range(6):
            codons = (size - index % 3) // 3
            if codons > 0:
                first = self._first_codon(starts, size, index)
                opened[:, index] = self._next_stop[index // 3][first] >= first + 3 * codons
        return opened

    def frame(self, start: int, size: int, index: int) -> ReadingFrame:
        """Return frame number `index` (0 to 5, in the order of FRAME_NAMES) of the chunk `[start, start + size)`."""
        strand, codons = index // 3, max(0, (size - index % 3) // 3)
        first = self._first_codon(start, size, index)
        protein = self._proteins[strand][first % 3][first // 3 : first // 3 + codons]
        return ReadingFrame(FRAME_NAMES[index], self._strands[strand][first : first + 3 * codons], protein)

    def _first_codon(self, start: Any, size: int, index: int) -> Any:
        """Return where the frame begins on its own strand, for one start or an array of them."""
        on_strand = start if index < 3 else self.length - size - start
        return on_strand + index % 3


def _codons(dna: str) -> np.ndarray:
    """Return the letter of the codon that starts at each position, as uint8 `[max(0, length - 2)]`."""
    bits = _BASE_BITS[np.frombuffer(dna.encode("ascii"), dtype=np.uint8)]
    return _CODON_TABLE[bits[:-2], bits[1:-1], bits[2:]]


def _next_stops(codons: np.ndarray) -> np.ndarray:
    """Return where the next in-phase stop codon starts, at or after each position; beyond the end if none."""
    beyond = len(codons) + 3
    stops = np.where(codons == ord("*"), np.arange(len(codons)), beyond)
    for phase in range(3):
        stops[phase::3] = np.minimum.accumulate(stops[phase::3][::-1])[::-1]
    return np.append(stops, [beyond] * 3)


def _base_bits() -> np.ndarray:
    """Return the set of bases that each ASCII letter may stand for, as bits; 0 for letters that are none."""
    bits = np.zeros(256, dtype=np.uint8)
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


_BASE_BITS = _base_bits()
_CODON_TABLE = _codon_table()
