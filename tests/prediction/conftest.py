"""A real scorer with composition encoders and seeded weights, which takes milliseconds."""

from __future__ import annotations

import pytest
import torch

from tests.shared.figures import undrawn
from virnuc.encoders import load_encoder
from virnuc.prediction.scorer import load_scorer, save_scorer
from virnuc.training.checkpoint import Checkpoint
from virnuc.training.classifier import Classifier


@pytest.fixture(autouse=True)
def figures(request, monkeypatch):
    """Figures are drawn for the tests of the summary alone; drawing takes half of the time of a prediction."""
    if request.path.stem != "test_summary":
        undrawn(monkeypatch)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Classifier(656)
    encoders = {"dna": load_encoder("tetranucleotide"), "protein": load_encoder("dipeptide")}
    metadata = {
        "checkpoint_version": "2.0.0",
        "model_type": "dipeptide",
        "dna_dim": 256,
        "protein_dim": 400,
        "merged_dim": 656,
        "input_dim": 656,
        "hidden_dim": 512,
        "num_class": 2,
        "modality": "merged",
        "split_digest": "0" * 64,
        "encoders": {kind: encoder.provenance.asdict() for kind, encoder in encoders.items()},
    }
    return Checkpoint({name: value.clone() for name, value in model.state_dict().items()}, metadata)


@pytest.fixture(scope="session")
def companion_checkpoint(checkpoint) -> Checkpoint:
    """The checkpoint of a classifier of the DNA half."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = Classifier(256)
    metadata = {**checkpoint.metadata, "modality": "dna", "input_dim": 256}
    return Checkpoint({name: value.clone() for name, value in model.state_dict().items()}, metadata)


@pytest.fixture(scope="session")
def packed(checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("packed") / "scorer"
    save_scorer(checkpoint, directory, chunk_size=300)
    return directory


@pytest.fixture(scope="session")
def scorer(packed):
    return load_scorer(packed)
