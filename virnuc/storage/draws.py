"""Draws by hash: a random order that depends on a seed and the names alone, not on their order or number."""

from __future__ import annotations

import hashlib


def draw(salt: str | int, name: str) -> str:
    """Return a sort key that puts names into a random order, another one for each salt."""
    return hashlib.blake2b(f"{salt}/{name}".encode()).hexdigest()
