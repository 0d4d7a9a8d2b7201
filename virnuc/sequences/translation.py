"""Six-frame translation of a whole sequence at once, from which the frames of any of its chunks are cut.

The amino acid of the codon at every position of both strands is looked up in a table. A frame of a chunk is then a
strided view, and whether it holds a stop codon is one comparison with the next stop of that phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

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
_BLOCK = 1 << 20  # letters that are worked on at once


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
        # One strand after the other: the base at each position, and the letter of the codon that starts there.
        self._bases = np.concatenate([forward, _replaced(forward, _COMPLEMENTS)[::-1]])  # [2 * length] uint8
        self._amino_acids = _translate(forward)  # [2 * length] uint8; X where a strand ends
        self._stops = self._sorted_stops()

    def is_open(self, starts: np.ndarray, sizes: Any) -> np.ndarray:
        """Return, as bool `[n, 6]`, which frames of the chunks at `starts` hold a codon and no stop codon.

        Args:
            starts: of the chunks, int64 `[n]`.
            sizes: of the chunks in bp, one for all or int64 `[n]`.
        """
        sizes = np.broadcast_to(sizes, starts.shape)
        opened = np.empty((len(starts), 6), dtype=bool)
        for index in range(6):  # one after the other: neighbours look for neighbouring stops
            codons = (sizes - index % 3) // 3
            first = self._first_codon(starts, sizes, np.int64(index))
            phase = (index // 3 * 3 + first % 3) * (self.length + 3)
            following = self._stops[np.searchsorted(self._stops, phase + first)] - phase
            opened[:, index] = (codons > 0) & (following >= first + 3 * codons)
        return opened

    def frame(self, start: int, size: int, index: int) -> ReadingFrame:
        """Return frame number `index` (0 to 5, in the order of FRAME_NAMES) of the chunk `[start, start + size)`."""
        codons = max(0, (size - index % 3) // 3)
        first = index // 3 * self.length + int(self._first_codon(start, size, np.int64(index)))
        nucleotide, protein = self._bases[first : first + 3 * codons], self._amino_acids[first : first + 3 * codons : 3]
        return ReadingFrame(FRAME_NAMES[index], nucleotide.tobytes().decode(), protein.tobytes().decode())

    def frames(self, starts: np.ndarray, sizes: np.ndarray, index: np.ndarray) -> Frames:
        """Return many frames at once, number `index[i]` of the chunk at `starts[i]`; all are int64 `[n]`."""
        first = index // 3 * self.length + self._first_codon(starts, sizes, index)
        return Frames(self._bases, self._amino_acids, first, (sizes - index % 3) // 3)

    def _first_codon(self, start: Any, size: Any, index: Any) -> Any:
        """Return where a frame begins on its own strand; for arrays too."""
        return np.where(index < 3, start, self.length - size - start) + index % 3

    def _sorted_stops(self) -> np.ndarray:
        """Return where stop codons start, sorted by strand, phase and position on the strand, int64.

        A position is counted from `(length + 3) * (3 * strand + phase)`; the last of each phase lies beyond its end.
        """
        found = []
        for strand in range(2):
            stops = np.flatnonzero(self._amino_acids[strand * self.length : (strand + 1) * self.length] == ord("*"))
            phases = stops % 3
            for phase in range(3):
                places = np.append(stops[phases == phase], self.length + 2)
                found.append(places + (3 * strand + phase) * (self.length + 3))
        return np.concatenate(found)


@dataclass(frozen=True)
class Frames:
    """Reading frames of a translated sequence, whose letters are copied when they are asked for."""

    bases: np.ndarray  # uint8, of both strands
    amino_acids: np.ndarray  # uint8, of the codon at each base
    first: np.ndarray  # [n] int64, where each frame begins
    codons: np.ndarray  # [n] int64

    def __getitem__(self, chosen: Any) -> Frames:
        """Return some of the frames, by numbers, a slice or a mask."""
        return replace(self, first=self.first[chosen], codons=self.codons[chosen])

    def nucleotides(self) -> np.ndarray:
        """Return the bases of all frames, one after the other, as ASCII uint8 `[3 * sum(codons)]`."""
        return gather(self.bases, self.first, 3 * self.codons)

    def proteins(self) -> np.ndarray:
        """Return the amino acids of all frames, one after the other, as ASCII uint8 `[sum(codons)]`."""
        return gather(self.amino_acids, self.first, self.codons, 3)


def gather(letters: np.ndarray, first: np.ndarray, counts: np.ndarray, step: int = 1) -> np.ndarray:
    """Return every `step`-th letter from each of the places `first`, `counts[i]` of each."""
    gathered = np.empty(int(counts.sum()), dtype=np.uint8)
    begins = np.cumsum(counts) - counts
    for count in np.unique(counts[counts > 0]).tolist():  # those of one length are rows, which are copied together
        same = np.flatnonzero(counts == count)
        rows = sliding_window_view(letters, step * (count - 1) + 1)[:, ::step]
        sliding_window_view(gathered, count, writeable=True)[begins[same]] = rows[first[same]]
    return gathered


def other_than_acgt(dna: np.ndarray) -> np.ndarray:
    """Return where upper-case letters, ASCII uint8 `[n]`, are not A, C, G or T, int64."""
    return np.flatnonzero(_replaced(dna, _NOT_ACGT).view(bool))


def _translate(dna: np.ndarray) -> np.ndarray:
    """Return the letter of the codon at each base of the forward, then of the reverse strand, uint8 `[2 * length]`."""
    translated = np.full(2 * len(dna), ord("X"), dtype=np.uint8)
    backward = translated[len(dna) :][::-1][2:]  # by where the codon lies on the forward strand
    for begin in range(0, len(dna) - 2, _BLOCK):
        block = dna[begin : begin + _BLOCK + 2]
        two = block >> 1 & 3  # bits: A 0, C 1, T 2, G 3; wrong for other letters, whose codons are looked up below
        codons = two[:-2] << 4 | two[1:-1] << 2 | two[2:]
        end = begin + len(codons)
        translated[begin:end] = _replaced(codons, _FORWARD_ACGT)
        backward[begin:end] = _replaced(codons, _BACKWARD_ACGT)
        around = np.unique(other_than_acgt(block)[:, None] - np.arange(3))
        around = around[(around >= 0) & (around < len(codons))]
        first, second, third = (_BASE_BITS.take(block[around + place]) for place in range(3))
        sets = first << 8 | second << 4 | third
        translated[begin + around], backward[begin + around] = _FORWARD.take(sets), _BACKWARD.take(sets)
    return translated


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
