"""The tokenizer that is trained where DNABERT's own is not available."""

from virnuc.encoders.byte_pairs import SPECIAL_TOKENS, train_byte_pairs


def test_it_is_trained_on_the_examples_reproducibly_and_frames_sequences(genomes):
    first, second = (train_byte_pairs(genomes, 200) for _ in range(2))
    sequences = ["ACGTACGTTTGACCA" * 20, "acgtn"]
    tokens = first(sequences, None)
    assert (tokens.flat == second(sequences, None).flat).all()
    cls, sep = SPECIAL_TOKENS.index("[CLS]"), SPECIAL_TOKENS.index("[SEP]")
    assert (tokens.flat[tokens.starts[:-1]] == cls).all()
    assert (tokens.flat[tokens.starts[1:] - 1] == sep).all()
    assert len(SPECIAL_TOKENS) < tokens.flat.max() < 200
    assert tokens.lengths[0] < 150
