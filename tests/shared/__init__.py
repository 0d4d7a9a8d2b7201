"""Shared by several tests: constructed evidence, small feature sets, golden checkpoints, servers."""

import os
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def made_once(tmp_path_factory, name: str) -> Path:
    """Return the path of something that one process makes for all."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
