"""The parts of every page: headed sections of sentences and tables of formatted words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN = "—"
_WEIGHTS = {  # what is recorded of an encoder's weights, in words
    "none": "not needed (composition)",
    "shipped": "shipped with virnuc",
    "package": "published, from a package",
    "hub": "published, from the hub",
    "local": "from a directory",
    "random": "RANDOM",
}
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of words; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    runs: tuple[str, ...] = ()  # ids of the runs that the columns' values come from, empty for a column of words

    def run_of(self, column: int) -> str:
        """Return the id of the run that a column's values come from; empty if that is not known."""
        return self.runs[column] if self.runs else ""


@dataclass(frozen=True)
class AllRows:
    """Rows of plain values for a table that can be sorted and filtered; only the HTML page has it."""

    columns: tuple[str, ...]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Section:
    """A headed part of the report."""

    anchor: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    steps: tuple[str, ...] = ()  # what to do next, after the tables
    commands: tuple[str, ...] = ()
    everything: AllRows | None = None


def number(value: float | None) -> str:
    """Return a number with three digits after the point, or a dash if it is not known."""
    return UNKNOWN if value is None else f"{value:.3f}"


def gib(gigabytes: float) -> str:
    """Return a size given in GB (1e9 bytes) in GiB."""
    return f"{gigabytes * 1e9 / 2**30:,.2f}"


def weights_in_words(kind: str) -> str:
    """Return where an encoder's weights are from."""
    return _WEIGHTS.get(kind, kind)


def with_interval(found: Mapping[str, float | None], digits: int = 3, sign: str = "") -> str:
    """Return `value (low to high)`; without the bracket if there is no interval."""
    if found["value"] is None:
        return UNKNOWN
    shown = f"{found['value']:{sign}.{digits}f}"
    if found["low"] is None or found["high"] is None:
        return shown
    return f"{shown} ({found['low']:{sign}.{digits}f} to {found['high']:{sign}.{digits}f})"
