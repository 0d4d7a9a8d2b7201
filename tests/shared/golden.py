"""Golden checkpoints: random weights in the published layouts, with the outputs of the reference implementations."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.shared import PROJECT

GOLDEN = PROJECT / "tests" / "data" / "golden"


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
