"""Evidence that a reading frame codes: its protein occurs in an annotated CDS translation of the same record.

All proteins of many records are looked up at once. The first letters of each are hashed into a table, which filters the
places of the annotated text; the few that remain are compared exactly, k-mer by k-mer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_K = 12  # letters of a k-mer; 5 bits each fit into 60 bits
_PAIRS = 1 << 20  # proteins and places that are compared at once
_ODD = np.uint64(0x9E3779B97F4A7C15)  # multiplicative hashing by the golden ratio
_CODES = bytes(letter - 64 if 64 < letter <= 90 else 0 for letter in range(256))  # 1 to 26 for A to Z, 0 for all else


def occur_in_annotation(
    translations: Sequence[Sequence[str]], records: np.ndarray, letters: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Return, as bool `[n]`, which proteins occur within one annotated protein of their record.

    Args:
        translations: the annotated proteins of each record.
        records: the number of each protein's record, int64 `[n]`.
        letters: of all proteins, A to Z, one after the other, ASCII uint8.
        lengths: of the proteins, int64 `[n]`.
    """
    texts = ["*".join(proteins) for proteins in translations]
    ends = np.cumsum([len(text) + 1 for text in texts])
    annotated = _kmers("".join(f"{text}*" for text in texts).encode("ascii", "replace"))
    starts = np.cumsum(lengths) - lengths
    found = np.zeros(len(lengths), dtype=bool)
    for number in np.flatnonzero(lengths < _K).tolist():
        protein = letters[starts[number] : starts[number] + lengths[number]].tobytes().decode()
        found[number] = protein in texts[records[number]]
    kmers = _kmers(letters.tobytes())
    for proteins, places in _pairs(np.flatnonzero(lengths >= _K), kmers, starts, annotated):
        same = ~found[proteins] & (np.searchsorted(ends, places, side="right") == records[proteins])
        proteins, places = proteins[same], places[same]
        for offset in range(_K, int(lengths.max(initial=0)), _K):
            # beyond a protein's end its last k-mer is compared again, beyond the text's one that no protein has
            shift = np.minimum(offset, lengths[proteins] - _K)
            beside = np.take(annotated, places + shift, mode="clip")
            same = kmers[starts[proteins] + shift] == beside
            proteins, places = proteins[same], places[same]
        found[proteins] = True
    return found


def _pairs(
    proteins: np.ndarray, kmers: np.ndarray, starts: np.ndarray, annotated: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield proteins and the places of the annotated text at which their first k-mer occurs."""
    first = kmers[starts[proteins]] if len(proteins) else np.zeros(0, dtype=np.int64)
    order = np.argsort(first, kind="stable")
    proteins, first = proteins[order], first[order]
    shift = np.uint64(64 - max(16, (16 * len(first)).bit_length()))
    filled = np.zeros(1 << (64 - int(shift)), dtype=bool)
    filled[_hash(first, shift)] = True
    places = np.flatnonzero(filled.take(_hash(annotated, shift)))
    lower = np.searchsorted(first, annotated[places], side="left")
    widths = np.searchsorted(first, annotated[places], side="right") - lower
    total = np.cumsum(widths)
    begin = 0
    while begin < len(places):
        before = total[begin] - widths[begin]
        end = max(begin + 1, int(np.searchsorted(total, before + _PAIRS)))
        part = widths[begin:end]
        within = np.arange(int(part.sum())) - np.repeat(np.cumsum(part) - part, part)
        yield proteins[np.repeat(lower[begin:end], part) + within], np.repeat(places[begin:end], part)
        begin = end


def _hash(kmers: np.ndarray, shift: np.uint64) -> np.ndarray:
    return ((kmers.view(np.uint64) * _ODD) >> shift).view(np.int64)


def _kmers(text: bytes) -> np.ndarray:
    """Return each window of `_K` letters as one number, int64 `[max(0, len(text) - _K + 1)]`; other letters are 0."""
    letters = np.frombuffer(text.translate(_CODES), dtype=np.uint8).astype(np.uint16)
    count = len(letters) - _K + 1
    if count <= 0:
        return np.zeros(0, dtype=np.int64)
    two = (letters[:-1] << 5 | letters[1:]).astype(np.uint32)
    four = (two[:-2] << 10 | two[2:]).astype(np.int64)
    eight = four[:-4] << 20 | four[4:]
    return eight[:count] << 20 | four[8 : 8 + count]
