from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from virnuc.sequences.chunking import chunk_starts


@given(st.integers(1, 5000), st.integers(1, 700))
def test_chunks_cover_the_sequence_evenly(length, size):
    starts = chunk_starts(length, size).tolist()
    assert len(starts) == -(-length // size)
    assert starts[0] == 0
    if length >= size:
        assert starts[-1] + size == length
    covered = {base for start in starts for base in range(start, min(length, start + size))}
    assert len(covered) == length
    steps = [later - earlier for earlier, later in pairwise(starts)]
    assert not steps or max(steps) - min(steps) <= 1


def test_nothing_of_nothing():
    assert chunk_starts(0, 300).tolist() == []
