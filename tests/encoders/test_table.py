"""The table's entries, the answer to a wrong name, and encoders without weights."""

import subprocess
import sys

import pytest
import torch

from virnuc.encoders import ENCODERS, find_encoder, load_encoder
from virnuc.errors import EncoderError, MemoryShortageError, UsageError

LARGE = {"esm2_3b": 2_832_442_880, "fastesm650": 649_400_320, "dnabert_s": 117_068_544 - 768 * 769}


def test_the_names_and_widths_that_the_project_promises():
    widths = {name: spec.dimension for name, spec in ENCODERS.items() if not spec.shipped}
    assert widths == {
        "esm2_3b": 2560,
        "fastesm650": 1280,
        "esm2_650m": 1280,
        "esm2_150m": 640,
        "esm2_35m": 480,
        "esm2_8m": 320,
        "dnabert_s": 768,
        "unirep_1900": 1900,
        "unirep_256": 256,
        "unirep_64": 64,
        "tetranucleotide": 256,
        "codon_phase": 192,
        "dipeptide": 400,
    }


def test_a_wrong_name_answers_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'fastesm650'"):
        find_encoder("fastesm_650")
    with pytest.raises(UsageError, match="did you mean 'esm2_3b'"):
        load_encoder("esm2_8m", weights={"esm2_3B": "random", "esm2_8m": "random"})


@pytest.mark.parametrize("name", LARGE)
def test_architectures_have_the_published_number_of_parameters(name):
    """Nothing is allocated: 3B would take 11 GB."""
    from virnuc.encoders.esm import EsmNetwork, EsmShape
    from virnuc.encoders.mosaicbert import MosaicBertNetwork, MosaicBertShape

    config = dict(ENCODERS[name].architecture)
    with torch.device("meta"):
        if name == "dnabert_s":
            network = MosaicBertNetwork(MosaicBertShape.from_config(config, name))
        else:
            network = EsmNetwork(EsmShape.from_config(config, name), 0.88, "computed")
    assert sum(parameter.numel() for parameter in network.parameters()) == LARGE[name]


def test_random_weights_are_seeded_and_tagged():
    first, second = (load_encoder("esm2_8m", weights={"esm2_8m": "random"}) for _ in range(2))
    assert first.provenance.weights == "random"
    assert first.provenance.weight_digest == second.provenance.weight_digest
    assert first.provenance.probe == second.provenance.probe
    assert torch.equal(first.embed(["MKVLA"]), second.embed(["MKVLA"]))


def test_weights_that_are_nowhere_say_what_to_do(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match=r"facebook/esm2_t36_3B_UR50D, 11.4 GB.*--weights esm2_3b=DIR"):
        load_encoder("esm2_3b")


def test_a_composition_encoder_takes_no_weights():
    with pytest.raises(UsageError, match="has no weights"):
        load_encoder("dipeptide", weights={"dipeptide": "random"})


def test_a_model_larger_than_the_memory_is_refused_before_it_is_built(monkeypatch):
    from virnuc.encoders import loading

    monkeypatch.setattr(loading, "available_memory", lambda device: 8e9)
    with pytest.raises(MemoryShortageError, match=r"needs 10\.6 GiB.*7\.5 GiB left"):
        load_encoder("esm2_3b", weights={"esm2_3b": "random"})


@pytest.mark.e2e
def test_loading_never_holds_two_copies():
    """A new process loads 0.6 GB of weights, and its memory grows by little more than that."""
    program = """
from virnuc.encoders import load_encoder
from virnuc.runtime import peak_memory_gb
load_encoder("esm2_8m", weights={"esm2_8m": "random"})
before = peak_memory_gb("cpu")
encoder = load_encoder("esm2_150m", weights={"esm2_150m": "random"})
print(encoder.provenance.parameters * 4e-9, peak_memory_gb("cpu") - before)
"""
    weights, grown = map(float, subprocess.check_output([sys.executable, "-c", program], text=True).split())
    assert weights == pytest.approx(0.59, abs=0.01)
    assert grown < 1.4 * weights
