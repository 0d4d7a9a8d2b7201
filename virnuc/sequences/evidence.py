"""Evidence that a reading frame codes: its protein occurs in an annotated CDS translation of the same record.

All proteins of many records are looked up at once. The first letters of each are hashed into a table, which filters the
places of the annotated text; the few that remain are compared letter by letter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_K = 8  # letters that are read as one number of 64 bits
_PAIRS = 1 << 20  # proteins and places that are compared at once
_ODD = np.uint64(0x9E3779B97F4A7C15)  # multiplicative hashing by the golden ratio


def occur_in_annotation(
    translations: Sequence[Sequence[str]], records: np.ndarray, proteins: Sequence[str]
) -> np.ndarray:
    """Return, as bool `[n]`, which proteins occur within one annotated protein of their record.

    Args:
        translations: the annotated proteins of each record.
        records: the number of each protein's record, int64 `[n]`.
        proteins: letters A to Z.
    """
    texts = ["*".join(annotated) for annotated in translations]
    ends = np.cumsum([len(text) + 1 for text in texts])
    joined = "*".join([*texts, ""])
    found = np.zeros(len(proteins), dtype=bool)
    long = np.array([len(protein) >= _K for protein in proteins], dtype=bool)
    for number in np.flatnonzero(~long).tolist():
        found[number] = proteins[number] in texts[records[number]]
    for numbers, places in _pairs(np.flatnonzero(long), proteins, joined.encode("ascii", "replace")):
        same = ~found[numbers] & (np.searchsorted(ends, places, side="right") == records[numbers])
        for number, place in zip(numbers[same].tolist(), places[same].tolist(), strict=True):
            if not found[number]:
                found[number] = joined.startswith(proteins[number], place)
    return found


def _pairs(numbers: np.ndarray, proteins: Sequence[str], text: bytes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the numbers of proteins and the places of the annotated text at which their first `_K` letters occur."""
    if len(numbers) == 0 or len(text) < _K:
        return
    first = np.frombuffer("".join([proteins[number][:_K] for number in numbers.tolist()]).encode("ascii"), dtype="<u8")
    order = np.argsort(first, kind="stable")
    numbers, first = numbers[order], first[order]
    shift = np.uint64(64 - max(16, (64 * len(first)).bit_length()))
    filled = np.zeros(1 << (64 - int(shift)), dtype=bool)
    filled[_hash(first, shift)] = True
    annotated = np.ndarray(len(text) - _K + 1, "<u8", text, strides=(1,))  # the letters from each place on
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
        yield numbers[np.repeat(lower[begin:end], part) + within], np.repeat(places[begin:end], part)
        begin = end


def _hash(kmers: np.ndarray, shift: np.uint64) -> np.ndarray:
    return ((kmers * _ODD) >> shift).view(np.int64)
