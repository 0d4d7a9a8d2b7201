"""The hexamer encoder against a slow implementation of its definition."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from virnuc.encoders import load_encoder
from virnuc.errors import DataError, EncoderError

SHIPPED = Path("examples/encoders/hexamer_tiny")


def _defined(sequence, weights):
    """Embed one sequence base by base."""
    width = weights["hexamers.weight"].shape[1]
    rows = []
    for start in range(max(1, len(sequence) - 5)):
        hexamer = sequence[start : start + 6]
        row = torch.zeros(width)
        if len(hexamer) == 6 and set(hexamer) <= set("ACGT"):
            digits = int("".join(str("ACGT".index(base)) for base in hexamer), 4)
            row = weights["hexamers.weight"][4096 * (start % 3) + digits]
        rows.append(row)
    norm = torch.nn.functional.layer_norm

    def tensors(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    states = norm(torch.stack(rows).mean(0), [width], *tensors("hexamers.LayerNorm"))
    for layer in range(sum(key.startswith("intermediate") and key.endswith("weight") for key in weights)):
        states = torch.nn.functional.gelu(torch.nn.functional.linear(states, *tensors(f"intermediate.{layer}.dense")))
    states = torch.nn.functional.linear(states, *tensors("output.dense"))
    return norm(states, [len(states)], *tensors("output.LayerNorm"))


@given(st.lists(st.text("ACGTacgtNR", min_size=1, max_size=60), min_size=1, max_size=6))
def test_the_vectors_are_those_of_the_definition(sequences):
    weights = load_file(SHIPPED / "model.safetensors")
    expected = torch.stack([_defined(sequence.upper(), weights) for sequence in sequences])
    torch.testing.assert_close(load_encoder("hexamer_tiny").embed(sequences), expected, rtol=1e-4, atol=1e-4)


def test_a_sequence_has_the_same_vector_whatever_stands_beside_it():
    draw = np.random.default_rng(0)
    sequences = ["".join(draw.choice(list("ACGT"), length)) for length in draw.integers(6, 700, 300)]
    encoder = load_encoder("hexamer_tiny")
    together = encoder.embed(sequences, batch_tokens=5000)
    alone = torch.cat([encoder.embed([sequence]) for sequence in sequences])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_other_precisions_are_float32():
    assert load_encoder("hexamer_tiny", precision="int8").provenance.precision == "fp32"


def test_letters_that_are_no_bases_are_refused():
    with pytest.raises(DataError, match="position 3 is not a base"):
        load_encoder("hexamer_tiny").embed(["AC!T"])


@pytest.mark.parametrize(("key", "value"), [("model_type", "esm"), ("hidden_size", 0), ("embedding_size", 63)])
def test_a_config_of_another_model_is_refused(tmp_path, key, value):
    directory = shutil.copytree(SHIPPED, tmp_path / "copy")
    config = json.loads((directory / "config.json").read_text()) | {key: value}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError):
        load_encoder(f"hexamer:{directory}")


def test_the_same_files_elsewhere_have_the_same_vectors_and_a_name_of_their_digest(tmp_path):
    directory = shutil.copytree(SHIPPED, tmp_path / "copy")
    encoder, shipped = load_encoder(f"hexamer:{directory}"), load_encoder("hexamer_tiny")
    assert encoder.name == f"hexamer-{encoder.provenance.weight_digest[:12]}"
    assert torch.equal(encoder.embed(["ATGACCGGT"]), shipped.embed(["ATGACCGGT"]))
