"""The errors that virnuc raises on purpose, each with the exit code that an entry point ends with.

Exit codes: 2 wrong usage, 3 a gate said no, 4 the data or a model is not what it claims to be, 1 anything
else. A message is one line that says what is wrong, where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from os import PathLike


class VirnucError(Exception):
    """Base of all errors that virnuc raises on purpose."""

    exit_code = 1


class UsageError(VirnucError):
    """A parameter that cannot be meant: a wrong name, a value out of its range, a missing directory."""

    exit_code = 2


class GateRefusal(VirnucError):
    """A rule of the promotion policy does not hold."""

    exit_code = 3


class DataError(VirnucError):
    """A file, a data set or a registry entry is not what it claims to be."""

    exit_code = 4


class ParseError(DataError):
    """A sequence file that cannot be read, with the file, the record and the line where it breaks."""

    def __init__(
        self, problem: str, path: str | PathLike[str], record: str | int | None = None, line: int | None = None
    ) -> None:
        """Compose `path, record R, line L: problem`; a record or line that is not known is left out."""
        where = [str(path)]
        if record is not None:
            where.append(f"record {record}")
        if line is not None:
            where.append(f"line {line}")
        super().__init__(f"{', '.join(where)}: {problem}")


class DimensionError(DataError):
    """Vectors whose width is not the one that their reader was made for."""


class IncompatibleCheckpointError(DataError):
    """A checkpoint used with features, a split or an encoder that are not its own."""


class EncoderError(DataError):
    """Weights that are missing, incomplete, damaged or of another model."""


class MemoryShortageError(EncoderError):
    """A model, or a single sequence in it, that the device's memory cannot hold."""


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt it is no error and is not caught as one."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a `name` that is not among the `known` ones, with the nearest right one."""
    choices = sorted(known)
    nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of: {', '.join(choices)}"
    return UsageError(f"there is no {kind} called {name!r}; {hint}")
