"""What every page is made of: headed sections of sentences and tables of formatted words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN = "—"
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of words; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class AllRows:
    """Rows of plain values for a table that a reader sorts and filters; only the page has it."""

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


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed digits, or a dash where it is not known."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def with_interval(found: Mapping[str, float | None], digits: int = 3, sign: str = "") -> str:
    """Return `value (low to high)`; without the bracket where there is no interval."""
    if found["value"] is None:
        return UNKNOWN
    shown = f"{found['value']:{sign}.{digits}f}"
    if found["low"] is None or found["high"] is None:
        return shown
    return f"{shown} ({found['low']:{sign}.{digits}f} to {found['high']:{sign}.{digits}f})"
