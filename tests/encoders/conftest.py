"""Golden checkpoints: random weights in the published layouts, with the outputs of the reference implementations."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@dataclass(frozen=True)
class Golden:
    """One reference case."""

    directory: Path
    family: str
    sequences: list[str]
    expected: torch.Tensor  # [n, width] float32

    @property
    def encoder(self) -> str:
        return f"{self.family}:{self.directory}"


def golden(name: str, family: str, sequences: str) -> Golden:
    directory = GOLDEN / name
    expected = torch.from_numpy(np.load(directory / "expected_mean.npy"))
    return Golden(directory, family, json.loads((directory / sequences).read_text()), expected)


CASES = {
    "esm2": golden("esm2", "esm", "proteins.json"),
    "fastesm2": golden("fastesm2", "esm", "proteins.json"),
    "dnabert_s": golden("dnabert_s", "mosaicbert", "dna.json"),
}


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


@pytest.fixture
def esm_copy(tmp_path):
    """Return a function that copies the ESM-2 case with its tensors or its config changed."""

    def copy(change_tensors=None, **config):
        target = tmp_path / "copy"
        shutil.copytree(CASES["esm2"].directory, target)
        if change_tensors is not None:
            tensors = load_file(target / "model.safetensors")
            change_tensors(tensors)
            save_file(tensors, target / "model.safetensors")
        if config:
            written = json.loads((target / "config.json").read_text()) | config
            (target / "config.json").write_text(json.dumps(written))
        return target

    return copy
