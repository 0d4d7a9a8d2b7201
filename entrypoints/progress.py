"""Progress bars for the terminal; nothing is drawn if the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(description: str, unit: str) -> Callable[[Iterable[T], int], Iterable[T]]:
    """Return a function that wraps an iterable, given its length, in a progress bar with the time left."""

    def wrap(items: Iterable[T], total: int) -> Iterable[T]:
        return _tqdm(description, unit, total, items)

    return wrap


def counter(description: str, unit: str, total: int | None = None, leave: bool = True) -> Any:
    """Return a progress bar, moved by `update(n)`; use it as a context manager."""
    return _tqdm(description, unit, total, None, leave)


def batches(description: Callable[[], str], unit: str) -> Callable[[Iterable[int], int], Iterable[int]]:
    """Return a function that wraps the sizes of batches, given their sum, in a bar that disappears at its end."""

    def wrap(sizes: Iterable[int], total: int) -> Iterator[int]:
        with counter(description(), unit, total, leave=False) as shown:
            for size in sizes:
                yield size
                shown.update(size)

    return wrap


def _tqdm(description: str, unit: str, total: int | None, items: Any, leave: bool = True) -> Any:
    return tqdm(
        items,
        desc=f"{description:10}",
        unit=f" {unit}",
        total=total,
        disable=None,
        leave=leave,
        dynamic_ncols=True,
        smoothing=0.1,
        file=sys.stderr,
        unit_scale=total is not None and total > 100_000,
    )


class Totals:
    """A bar for each thing that is made, told how many of how many are done."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bars: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of `what` to `done` of `total`."""
        if what not in self._bars:
            self._bars[what] = counter(what, self._unit, total)
        shown = self._bars[what]
        shown.update(done - shown.n)

    def close(self) -> None:
        """Close all bars."""
        for shown in self._bars.values():
            shown.close()


@contextmanager
def totals(unit: str) -> Iterator[Totals]:
    """Yield bars that are closed at the end of the block."""
    shown = Totals(unit)
    try:
        yield shown
    finally:
        shown.close()
