"""Predictions of frames to those of chunks."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc.errors import DataError
from virnuc.evaluation.predictions import chunk_ids, chunk_predictions


def test_chunks_are_ids_without_their_frame():
    ids = pd.Series(["NC_1.2_chunk_7F1", "NC_1.2_chunk_7R3", "a_chunk_1_chunk_12F2"])
    assert chunk_ids(ids).tolist() == ["NC_1.2_chunk_7", "NC_1.2_chunk_7", "a_chunk_1_chunk_12"]


@pytest.mark.parametrize("wrong", ["NC_1_chunk_7", "NC_1_chunk_7F4", "NC_1F1", "_chunk_7F1", ""])
def test_other_ids_are_refused(wrong):
    with pytest.raises(DataError, match=r"ACCESSION_chunk_K"):
        chunk_ids(pd.Series(["NC_1_chunk_7F1", wrong]))


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 1)), min_size=1, max_size=20))
@settings(max_examples=25)
def test_a_chunk_is_viral_if_its_highest_viral_score_is_at_least_its_highest_non_viral_one(frames):
    table = pd.DataFrame(frames, columns=["chunk", "score"]).assign(
        genome="g", organism="", lineage="", group="viral", label=1, length=300
    )
    called = chunk_predictions(table).set_index("chunk")["score"] >= 0.5
    for chunk in {chunk for chunk, _ in frames}:
        viral = [s for c, s in frames if c == chunk]
        assert called[chunk] == (max(viral) >= max(1 - s for s in viral))
