"""Letters become the published token ids, or raise an error that names the sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared.golden import CASES
from virnuc.encoders import load_encoder
from virnuc.encoders.tokens import ESM_VOCABULARY, plan_batches, tokenise_proteins
from virnuc.errors import DataError

RESIDUES = "LAGVSERTIDPKQNFYMHWCXBUZO"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tokenizer class of transformers over the published vocabulary."""
    from transformers import EsmTokenizer  # which takes seconds

    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(ESM_VOCABULARY))
    return EsmTokenizer(str(path))


def test_all_letters_have_the_published_ids(published):
    sequences = [RESIDUES, "M", RESIDUES[::-1] * 3]
    tokens = tokenise_proteins(sequences, None, None)
    bounds = zip(tokens.starts[:-1], tokens.starts[1:], strict=True)
    assert [tokens.flat[first:last].tolist() for first, last in bounds] == published(sequences)["input_ids"]


@pytest.mark.parametrize("bad", ["MK*V", "MKJV", "MKv", "MK V", "MK\x00", "MKé", "MK中", "<cls>"])
def test_other_letters_are_refused_with_the_frame_id(bad):
    with pytest.raises(DataError, match="frame_7"):
        tokenise_proteins(["MKV", bad], ["frame_1", "frame_7"], 1024)


@pytest.mark.parametrize("name", ["esm2", "dnabert_s"])
def test_an_empty_sequence_is_refused_with_the_frame_id(name):
    with pytest.raises(DataError, match="frame_2 is empty"):
        load_encoder(CASES[name].encoder).embed(["ACGT", ""], ids=["frame_1", "frame_2"])


@pytest.mark.parametrize("encoder", [CASES["dnabert_s"].encoder, "tetranucleotide"])
def test_dna_refuses_what_is_no_base(encoder):
    with pytest.raises(DataError, match=r"frame_9.*'E' at position 3"):
        load_encoder(encoder).embed(["ACEGT"], ids=["frame_9"])


def test_no_sequences_give_no_vectors():
    for encoder in (CASES["esm2"].encoder, CASES["dnabert_s"].encoder, "dipeptide"):
        loaded = load_encoder(encoder)
        assert loaded.embed([]).shape == (0, loaded.dimension)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_each_row_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    batches = list(plan_batches(lengths, lambda: budget))
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or lengths[batch].sum() <= budget for batch in batches)
    assert np.all(np.diff([lengths[row] for batch in batches for row in batch]) <= 0)
