"""What several tests use: constructed evidence, small feature sets, golden checkpoints, a server of models."""

import os
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def made_once(tmp_path_factory, name: str) -> Path:
    """Return the place of what one of the processes makes for all."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
