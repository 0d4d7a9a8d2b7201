"""What several tests use: constructed evidence, small feature sets, golden checkpoints, a server of models."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
