"""Progress bars for the terminal; nothing is drawn if the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm


def bar(description: str, unit: str, total: int, leave: bool = True) -> Any:
    """Return a progress bar, moved by `update(n)`; with `leave=False` it disappears at its end."""
    return tqdm(
        desc=f"{description:10}",
        unit=f" {unit}",
        total=total or None,
        disable=None,
        leave=leave,
        dynamic_ncols=True,
        smoothing=0.1,
        file=sys.stderr,
        unit_scale=total > 100_000,
    )


def bars(unit: str, leave: bool = True, begun: Callable[[], object] = lambda: None) -> Callable[[str, int, int], None]:
    """Return a `Progress` that draws a bar for each thing that is worked on; `begun` is called before the first."""
    shown: dict[str, Any] = {}

    def show(what: str, done: int, total: int) -> None:
        if not shown:
            begun()
        if what not in shown:
            shown[what] = bar(what, unit, total, leave)
        shown[what].update(done - shown[what].n)
        if done == total:
            shown[what].close()

    return show
