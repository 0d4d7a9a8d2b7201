"""The errors that virnuc raises on purpose, each with the exit code that an entry point ends with.

Exit codes: 2 wrong usage, 3 a gate said no, 4 the data or a model is not what it claims to be, 1 anything
else. A message is one line that says what is wrong, where, and what to do next.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from os import PathLike
from typing import Any

_PASSWORD_IN_URI = re.compile(r"(?<=://)([^\s/:@'\"]*):[^\s'\"]*@")
_SECRET_VALUE = re.compile(r"((?:password|passwd|secret|token|api_?key)=)[^\s&;'\"]+", re.IGNORECASE)
_SECRET_VARIABLE = re.compile("PASSWORD|SECRET|TOKEN|CREDENTIAL|ACCESS_KEY")
_SHORTEST_SECRET = 6  # letters; a shorter value of a variable would mask ordinary words

_CAUSES = {
    errno.ENOSPC: "the disk is full; make room and give the same command again",
    errno.EDQUOT: "the disk quota is used up; make room and give the same command again",
    errno.EROFS: "the disk is read-only; give a place that can be written to",
    errno.EACCES: "permission denied; choose another place or ask for access",
    errno.EPERM: "permission denied; choose another place or ask for access",
    errno.ENOTDIR: "a file is where a directory is needed; give another --out",
    errno.EEXIST: "a file is where a directory is needed; give another --out",
    errno.EISDIR: "a directory is where a file is needed; name the file",
    errno.EBADF: "standard input or output is closed; give a file instead",
}
_STORE_CAUSES = {  # by words of the store's error
    "database is locked": "another process holds the store's database; try again when it has ended",
    "readonly database": "the store's database is read-only; give MLFLOW_TRACKING_URI a place that can be written to",
    "unable to open database file": "the store's database cannot be opened; see MLFLOW_TRACKING_URI",
    "Connection refused": "the store's server does not answer; start it, or see MLFLOW_TRACKING_URI",
    "Max retries exceeded": "the store's server does not answer; start it, or see MLFLOW_TRACKING_URI",
    "failed with error code 403": "the store's server refuses that to this user; ask who runs it",
    "failed with error code 401": "the store's server does not know this user; see MLFLOW_TRACKING_USERNAME",
    "could not connect to server": "the store's database does not answer; start it, or see MLFLOW_TRACKING_URI",
}


def masked(text: str) -> str:
    """Return a text without passwords, for everything that goes to a terminal, a store or a report.

    Masked are the password of a URI, what follows `password=` and its like, and the values of environment variables
    whose names say that they are secret.
    """
    text = _SECRET_VALUE.sub(r"\1***", _PASSWORD_IN_URI.sub(r"\1:***@", text))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLE.search(name):
            text = text.replace(value, "***")
    return text


class VirnucError(Exception):
    """Base of all errors that virnuc raises on purpose."""

    exit_code = 1


class UsageError(VirnucError):
    """A wrong parameter: an unknown name, a value out of its range, a missing directory."""

    exit_code = 2


class GateRefusal(VirnucError):
    """A rule of the promotion policy does not hold."""

    exit_code = 3


class DataError(VirnucError):
    """A file, a data set or a registry entry is not what it claims to be."""

    exit_code = 4


class NoVerdictError(DataError):
    """A comparison in which something is missing that a verdict needs."""


class ParseError(DataError):
    """A sequence file that cannot be read, with the file, the record and the line where it breaks."""

    def __init__(
        self, problem: str, path: str | PathLike[str], record: str | int | None = None, line: int | None = None
    ) -> None:
        """Compose `path, record R, line L: problem`; an unknown record or line is left out."""
        where = [str(path)]
        if record is not None:
            where.append(f"record {record}")
        if line is not None:
            where.append(f"line {line}")
        super().__init__(f"{', '.join(where)}: {problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel from a worker process as the composed message."""
        return ParseError.__new__, (ParseError, *self.args)


class DimensionError(DataError):
    """Vectors of another width than their reader expects."""


class IncompatibleCheckpointError(DataError):
    """A checkpoint used with other features, another split or another encoder than its own."""


class EncoderError(DataError):
    """Weights that are missing, incomplete, damaged or those of another model."""


class MemoryShortageError(EncoderError):
    """A model, or a single sequence, that does not fit into the device's memory."""


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt this is not an error and is not caught as one."""


def cause_outside(error: BaseException) -> str:
    """Return what is wrong with the machine or the store, and the next step; empty for other errors.

    Libraries wrap errors in one another, so the whole chain is examined.
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _CAUSES:
            place = f"{one.filename}: " if one.filename else ""
            return f"{place}{_CAUSES[one.errno]}"
    return store_cause(error)


def store_cause(error: BaseException) -> str:
    """Return why the store does not answer, and the next step; empty if an error has another cause."""
    text = " ".join(" ".join(map(str, _chain(error))).split())
    return next((cause for words, cause in _STORE_CAUSES.items() if words in text), "")


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a `name` that is not among the `known` ones, with the nearest right one."""
    choices = sorted(known)
    nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of: {', '.join(choices)}"
    return UsageError(f"there is no {kind} called {name!r}; {hint}")
