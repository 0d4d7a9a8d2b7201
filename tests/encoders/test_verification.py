"""Verification of an encoder: by a reference implementation, published constants and checksums."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.shared.golden import CASES
from virnuc.encoders import load_encoder
from virnuc.encoders.verification import real_sequences, verify, verify_source
from virnuc.sequences.reading import read_records


def verified(encoder):
    (found,) = verify_source(encoder, {}, {}, "cpu", "fp32")
    return found


def change_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture
def copy(tmp_path):
    """Return a function that copies a golden checkpoint, with its checksums if asked."""

    def make(name, sums=False):
        target = tmp_path / name
        shutil.copytree(CASES[name].directory, target)
        if not sums:
            (target / "SHA256SUMS").unlink()
        return target

    return make


def test_golden_checkpoints_pass(case):
    found = verified(case.encoder)
    assert found.passed, str(found)
    assert found.largest_difference < 1e-6
    assert (found.sequences, found.checksums) == (8, "SHA256SUMS")
    assert ("EsmModel of transformers 5" in found.reference) == (case.family == "esm")


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_lower_precisions_have_limits_of_their_own(precision):
    case = CASES["esm2"]
    found = verify(load_encoder(case.encoder, precision=precision), case.directory)
    assert found.passed, str(found)
    assert 1e-5 < found.largest_difference < 0.1


@pytest.mark.parametrize("layer", [0, 2])
def test_changed_rotary_frequencies_of_one_layer_fail(copy, layer):
    directory = copy("fastesm2")
    tensors = load_file(directory / "model.safetensors")
    tensors[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"][3] *= 1.0002
    save_file(tensors, directory / "model.safetensors")
    found = verified(f"esm:{directory}")
    assert f"rotary frequencies of layer {layer} are not" in found.findings[-1]


@pytest.mark.parametrize(("name", "family"), [("esm2", "esm"), ("dnabert_s", "mosaicbert")])
def test_a_changed_epsilon_fails(copy, name, family):
    directory = copy(name)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    assert "epsilon 1e-06" in "; ".join(verified(f"{family}:{directory}").findings)


@pytest.mark.parametrize(("name", "file"), [("esm2", "model.safetensors"), ("dnabert_s", "pytorch_model.bin")])
def test_one_changed_byte_of_a_weight_fails(copy, name, file):
    directory = copy(name, sums=True)
    change_byte(directory / file, (directory / file).stat().st_size // 2)
    found = verified(f"{CASES[name].family}:{directory}")
    assert f"{file} is not the published file" in found.findings[-1]


def test_the_record_that_a_download_leaves_is_a_checksum(copy):
    directory = copy("esm2")
    records = directory / ".cache" / "huggingface" / "download"
    records.mkdir(parents=True)
    config = (directory / "config.json").read_bytes()
    sums = {
        "model.safetensors": hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest(),
        "config.json": hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest(),  # git's name for a small file
    }
    for name, digest in sums.items():
        (records / f"{name}.metadata").write_text(f"{'a' * 40}\n{digest}\n1700000000.0\n")
    assert verified(f"esm:{directory}").checksums == "the hub's record of the download"
    change_byte(directory / "model.safetensors", -1)
    assert "model.safetensors is not the published file" in verified(f"esm:{directory}").findings[-1]


def test_the_hubs_cache_names_its_files_by_checksum(copy, tmp_path):
    directory, blobs = copy("esm2"), tmp_path / "blobs"
    blobs.mkdir()
    weights = directory / "model.safetensors"
    blob = blobs / hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.rename(blob)
    weights.symlink_to(blob)
    found = verified(f"esm:{directory}")
    assert (found.passed, found.checksums) == (True, "the hub's cache")
    change_byte(blob, -1)
    assert not verified(f"esm:{directory}").passed


@pytest.mark.parametrize(
    "spoil",
    [
        lambda network: setattr(network, "token_scale", 1.0),
        lambda network: setattr(network.layer[1].norm, "eps", 1e-3),
        lambda network: network.layer[2].attention_norm.weight.data[5].mul_(1.01),
    ],
)
def test_a_network_that_computes_something_else_fails(spoil):
    case = CASES["esm2"]
    encoder = load_encoder(case.encoder)
    spoil(encoder.network)
    found = verify(encoder, case.directory)
    assert "the embeddings differ" in found.findings[0]


def test_the_sequences_are_real(genomes):
    embedded = " ".join(
        text for path in sorted(genomes.glob("*.gbff.gz")) for record in read_records(path)
        for text in (record.sequence, *record.translations)
    )  # fmt: skip
    proteins, chunks = real_sequences("protein"), real_sequences("dna")
    assert [len(protein) for protein in proteins] == [30, 61, 77, 151, 235, 403, 704, 952]
    assert sorted(map(len, chunks)) == [300] * 4 + [500] * 4
    assert all(sequence in embedded for sequence in proteins + chunks)
    assert torch.isfinite(load_encoder("esm2_tiny").embed(proteins)).all()
