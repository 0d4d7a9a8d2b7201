"""Composition vectors against a naive count."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc.encoders import load_encoder
from virnuc.encoders.composition import BASES, RESIDUES


def _naive(sequence, alphabet, k, first=0, step=1):
    """The definition, a^k * count / positions - 1, without k-mers that contain other letters."""
    kmers = [sequence[at : at + k] for at in range(first, len(sequence) - k + 1, step)]
    kmers = [found for found in kmers if set(found) <= set(alphabet)]
    if not kmers:
        return np.zeros(len(alphabet) ** k)
    every = ["".join(letters) for letters in product(alphabet, repeat=k)]
    return np.array([len(every) * kmers.count(one) / len(kmers) - 1 for one in every])


@given(st.lists(st.text("ACGTNR", min_size=1, max_size=40), min_size=1, max_size=5))
def test_tetranucleotides(sequences):
    vectors = load_encoder("tetranucleotide").embed(sequences)
    expected = np.stack([_naive(sequence, BASES, 4) for sequence in sequences])
    np.testing.assert_allclose(vectors.numpy(), expected, rtol=1e-6)


@given(st.lists(st.text("ACGTNR", min_size=1, max_size=40), min_size=1, max_size=5))
def test_trinucleotides_by_codon_position(sequences):
    vectors = load_encoder("codon_phase").embed(sequences)
    expected = [np.concatenate([_naive(one, BASES, 3, first, 3) for first in range(3)]) for one in sequences]
    np.testing.assert_allclose(vectors.numpy(), np.stack(expected), rtol=1e-6)


def test_codon_usage_comes_first():
    vector = load_encoder("codon_phase").embed(["ATGATGATG"])[0]
    codons = ["".join(letters) for letters in product(BASES, repeat=3)]
    for phase, codon in enumerate(("ATG", "TGA", "GAT")):
        own = vector[64 * phase : 64 * (phase + 1)]
        assert (own.argmax(), own.max()) == (codons.index(codon), 63)


@given(st.lists(st.text(RESIDUES + "XBU", min_size=1, max_size=40), min_size=1, max_size=5))
def test_dipeptides(sequences):
    vectors = load_encoder("dipeptide").embed(sequences)
    expected = np.stack([_naive(sequence, RESIDUES, 2) for sequence in sequences])
    np.testing.assert_allclose(vectors.numpy(), expected, rtol=1e-6)


def test_more_rows_than_a_block():
    sequences = ["ACGTACGTTGCA" * (1 + row % 3) for row in range(2500)]
    vectors = load_encoder("tetranucleotide").embed(sequences).numpy()
    np.testing.assert_array_equal(vectors, vectors[[0, 1, 2] * 833 + [0]])


def test_values_have_the_size_of_a_language_models_output():
    generator = np.random.default_rng(0)
    sequences = ["".join(generator.choice(list(BASES), 300)) for _ in range(50)]
    assert load_encoder("tetranucleotide").embed(sequences).std().item() == pytest.approx(0.93, abs=0.1)
