"""Checkpoints in the three published layouts give the outputs of their reference implementations."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file

from tests.shared.golden import CASES
from virnuc.encoders import load_encoder

TOLERANCE = 1e-5  # largest absolute difference in float32, also between different batches


def test_each_sequence_alone(case):
    encoder = load_encoder(case.encoder)
    alone = torch.cat([encoder.embed([sequence]) for sequence in case.sequences])
    torch.testing.assert_close(alone, case.expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 300, 16384])
def test_mixed_batches_in_any_order(case, batch_tokens):
    encoder = load_encoder(case.encoder)
    order = list(range(len(case.sequences)))
    random.Random(batch_tokens).shuffle(order)
    vectors = encoder.embed([case.sequences[row] for row in order], batch_tokens=batch_tokens)
    torch.testing.assert_close(vectors, case.expected[order], atol=TOLERANCE, rtol=0)


def test_the_same_batch_gives_the_same_bits(case):
    encoder = load_encoder(case.encoder)
    assert torch.equal(encoder.embed(case.sequences), encoder.embed(case.sequences))


def test_dna_tokens_are_the_published_ones_in_any_case():
    case = CASES["dnabert_s"]
    expected = json.loads((case.directory / "token_ids.json").read_text())
    encoder = load_encoder(case.encoder)
    for sequences in (case.sequences, [sequence.lower() for sequence in case.sequences]):
        tokens = encoder.tokenise(sequences)
        bounds = zip(tokens.starts[:-1], tokens.starts[1:], strict=True)
        assert [tokens.flat[first:last].tolist() for first, last in bounds] == expected


def test_dna_with_iupac_codes_and_3000_bases():
    encoder = load_encoder(CASES["dnabert_s"].encoder)
    sequences = ["ACGTNNNNACGT", "RYSWKMBDHVN", "ACGT" * 750]
    vectors = encoder.embed(sequences)
    assert vectors.shape == (3, 96)
    assert not torch.equal(vectors[0], encoder.embed(["ACGTACGT"])[0])


def test_proteins_beyond_the_limit_are_cut():
    encoder = load_encoder(CASES["esm2"].encoder)
    long = "MKV" * 434  # 1,302 residues
    tokens = encoder.tokenise([long, "MKV"])
    assert tokens.lengths.tolist() == [1026, 5]
    torch.testing.assert_close(encoder.embed([long]), encoder.embed([long[:1024]]))


def _reference(directory, sequences, batch_of_one=True):
    """Embed with transformers' own model, with rotary frequencies set from the file."""
    from transformers import EsmConfig, EsmModel  # which takes seconds

    config = EsmConfig(**json.loads((directory / "config.json").read_text()))
    model = EsmModel(config, add_pooling_layer=False).eval()
    tensors = {key.removeprefix("esm."): value for key, value in load_file(directory / "model.safetensors").items()}
    model.load_state_dict(tensors, strict=False)
    model.rotary_embeddings.inv_freq.copy_(tensors["encoder.layer.0.attention.self.rotary_embeddings.inv_freq"])
    tokens = load_encoder(f"esm:{directory}").tokenise(sequences)
    vectors = []
    for first, last in zip(tokens.starts[:-1], tokens.starts[1:], strict=True):
        ids = torch.from_numpy(tokens.flat[first:last].astype("int64"))[None]
        states = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        vectors.append(states[0, 1:-1].mean(0))
    return torch.stack(vectors).detach()


def test_the_whole_alphabet_agrees_with_transformers():
    case = CASES["fastesm2"]
    sequences = ["LAGVSERTIDPKQNFYMHWCXBUZO", "XBUZO", "OOOOZZZZ" * 40]
    expected = _reference(case.directory, sequences)
    torch.testing.assert_close(load_encoder(case.encoder).embed(sequences), expected, atol=TOLERANCE, rtol=0)
