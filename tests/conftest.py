"""Shared by all tests: the embedded genomes, small prepared frames, and a quiet, local MLflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def genomes() -> Path:
    """The embedded genomes of nine groups."""
    return PROJECT / "examples" / "refseq_mini"


@pytest.fixture(scope="session")
def frames(genomes, tmp_path_factory) -> Path:
    """All frames of the embedded genomes, 300 bp with CDS evidence."""
    from virnuc.sequences.preparing import prepare
    from virnuc.settings import PrepareSettings

    out = tmp_path_factory.mktemp("frames") / "frames"
    prepare(PrepareSettings(source=str(genomes), out=str(out)), lambda sources, _: sources)
    return out
