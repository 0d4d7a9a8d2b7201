"""The contents of a directory that stages wrote to: kind, size, and what would be lost by deleting it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virnuc.storage.directory import PROGRESS
from virnuc.storage.manifest import FORMAT_VERSIONS, MANIFEST, read_manifest

_LOST = {  # with a directory of each kind
    "download": "`download` fetches them again, of the newest release",
    "embeddings": "only `extract` reads them; it would compute them again for another feature set",
    "features": "`extract` makes them again, hours on the published encoders",
    "calls": "`predict` makes them again",
}


@dataclass(frozen=True)
class Usage:
    """A directory that a stage wrote or began."""

    directory: Path
    kind: str  # as in its manifest; `unfinished` without one
    bytes: int  # of all that is in it
    lost: str  # what becomes of it if it is deleted


def usage(data: Path) -> Iterator[Usage]:
    """Yield the directories that stages wrote below `data`, by name; directories inside them count as parts of them.

    Raises:
        DataError: a manifest cannot be read.
    """
    for directory in sorted(path for path in data.glob("*") if path.is_dir() and not path.is_symlink()):
        if (directory / MANIFEST).is_file():
            kind = read_manifest(directory, *FORMAT_VERSIONS).kind
            yield Usage(directory, kind, _size(directory), _LOST.get(kind, "its stage makes them again, in minutes"))
        elif (directory / PROGRESS).is_dir():
            yield Usage(directory, "unfinished", _size(directory), "the same command finishes it")
        else:
            yield from usage(directory)


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())
