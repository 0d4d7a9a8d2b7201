"""Progress bars for the terminal; nothing is drawn where the output is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(description: str, unit: str) -> Callable[[Iterable[T], int], Iterable[T]]:
    """Return a function that wraps an iterable, given its length, in a progress bar with the time left."""

    def wrap(items: Iterable[T], total: int) -> Iterable[T]:
        return _tqdm(description, unit, total, items)

    return wrap


def counter(description: str, unit: str, total: int | None = None) -> Any:
    """Return a progress bar to be moved by `update(n)`; use it as a context manager."""
    return _tqdm(description, unit, total, None)


def _tqdm(description: str, unit: str, total: int | None, items: Any) -> Any:
    return tqdm(
        items,
        desc=f"{description:10}",
        unit=f" {unit}",
        total=total,
        disable=None,
        dynamic_ncols=True,
        smoothing=0.1,
        file=sys.stderr,
        unit_scale=total is not None and total > 100_000,
    )
