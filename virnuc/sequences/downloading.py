"""`download`: files of RefSeq's release, drawn by division, resumed where they broke off, checked by their MD5.

A release lists its files with their MD5 in `release-catalog/release<N>.files.installed`. Files are kept under
`.progress/` until their checksums are right. An interrupted file is continued where it broke off, unless the server
says that it has changed since.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

import requests
import urllib3

from virnuc import __version__
from virnuc.errors import DataError, VirnucError
from virnuc.runtime import Progress, counted, silent
from virnuc.settings import DownloadSettings
from virnuc.storage.directory import OutputDirectory
from virnuc.storage.draws import draw
from virnuc.storage.files import write_text
from virnuc.storage.manifest import Manifest

_TIMEOUT = (10, 60)  # seconds to connect, and without a byte
_TRIES = 8  # in a row without a byte gained; the waits between them double, from 1 s
_LONGEST_WAIT = 60  # s
_BLOCK = 1 << 20  # bytes read at once, at most
_PASSING = (408, 425, 429)  # client errors that may be temporary
_FILE = re.compile(r"([a-z_]+)(\.\d+)+\.genomic\.gbff\.gz")
T = TypeVar("T")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class _Remote:
    """A file of the release."""

    url: str
    name: str
    md5: str


def download(
    settings: DownloadSettings, progress: Progress = silent, wait: Callable[[float], object] = time.sleep
) -> Manifest:
    """Fetch the drawn files of the release to `settings.out`, or those that are missing; return the manifest.

    Raises:
        DataError: a file that is missing or not what the release says, or another release than the one begun with.
        VirnucError: the server does not answer, or breaks off repeatedly.
    """
    parameters = {name: settings.plain()[name] for name in ("divisions", "files", "seed")}
    output = OutputDirectory(Path(settings.out), "download", parameters)
    with output.alone() as finished, requests.Session() as session:
        if finished is not None:
            return finished
        session.headers.update({"User-Agent": f"virnuc/{__version__}", "Accept-Encoding": "identity"})
        fetcher = _Fetcher(session, wait, Event())
        mirror = settings.mirror.rstrip("/")
        release = _same_release(output, fetcher.text(f"{mirror}/RELEASE_NUMBER").strip())
        listed = _listed(fetcher.text(f"{mirror}/release-catalog/release{release}.files.installed"))
        drawn = [
            _Remote(f"{mirror}/{name.split('.')[0]}/{name}", name, listed[name]) for name in _draw(listed, settings)
        ]
        sizes = _fetch_all(fetcher, drawn, output, settings.connections, progress)
        files = {file.name: {"url": file.url, "bytes": sizes[file.name], "md5": file.md5} for file in drawn}
        counts = {
            "in": {"files": len(listed)},
            "out": {"files": len(drawn), "bytes": sum(sizes.values())},
            "dropped": {"files_not_drawn": len(listed) - len(drawn)},
        }
        return output.complete(dict.fromkeys(files, 0), counts, {"release": release, "mirror": mirror, "files": files})


def _same_release(output: OutputDirectory, release: str) -> str:
    if not release.isdecimal():
        raise DataError(
            f"RELEASE_NUMBER is {release[:40]!r}, not a number; --mirror needs the directory of a RefSeq release"
        )
    note = output.progress / "release"
    begun = note.read_text(encoding="utf-8") if note.is_file() else release
    if begun != release:
        raise DataError(
            f"{output.directory}: begun with release {begun}, but the server now has {release}; delete it to use that"
        )
    write_text(note, release)
    return release


def _listed(catalogue: str) -> dict[str, str]:
    """Return the MD5 of each GenBank file of genomes that the release lists, by name."""
    listed = {}
    for words in map(str.split, catalogue.splitlines()):
        names = [word.rpartition("/")[2] for word in words if _FILE.fullmatch(word.rpartition("/")[2])]
        sums = [word for word in words if _MD5.fullmatch(word)]
        if names and sums:
            listed[names[0]] = sums[0]
    return listed


def _draw(listed: Mapping[str, str], settings: DownloadSettings) -> list[str]:
    """Return the names of the files to fetch: those of each division that are first in the seed's order."""
    drawn: list[str] = []
    for division in settings.divisions:
        names = sorted(
            (name for name in listed if name.split(".")[0] == division), key=lambda n: draw(settings.seed, n)
        )
        if not names:
            raise DataError(f"the release lists no file of {division}; see --mirror and --divisions")
        wanted = settings.files.get(division, "1")
        drawn += sorted(names if wanted == "all" else names[: int(wanted)])
    return drawn


def _fetch_all(
    fetcher: _Fetcher, files: list[_Remote], output: OutputDirectory, connections: int, progress: Progress
) -> dict[str, int]:
    """Fetch what is missing, several at once; return all sizes in bytes. The first error stops the others."""
    with ThreadPoolExecutor(connections) as threads:
        running = [threads.submit(fetcher.fetch, file, output) for file in files]
        try:
            done = counted(running, len(running), "download", progress)
            return {file.name: future.result() for file, future in zip(files, done, strict=True)}
        except BaseException:
            fetcher.stop.set()
            threads.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Fetcher:
    """Fetches files from one server."""

    session: requests.Session
    wait: Callable[[float], object]  # seconds
    stop: Event  # set when another file has failed

    def text(self, url: str) -> str:
        """Return a small file of text."""

        def get() -> str:
            with self.session.get(url, timeout=_TIMEOUT) as answer:
                _check(answer)
                return answer.text

        return self._persist(url, get, lambda: 0)

    def fetch(self, file: _Remote, output: OutputDirectory) -> int:
        """Fetch a file unless it exists; return its size.

        Raises:
            DataError: it has the wrong MD5 twice in a row.
        """
        target, part = output.directory / file.name, output.progress / f"{file.name}.part"
        for _ in range(2):
            if target.is_file():
                return _size(target)
            self._persist(file.url, lambda: self._go_on(file.url, part), lambda: _size(part))
            with part.open("rb") as stream:
                digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if digest == file.md5:
                part.replace(target)
            else:
                part.unlink()
        if not target.is_file():
            raise DataError(
                f"{file.url}: twice its MD5 was not {file.md5}, as the release says, but {digest}; try later"
            )
        return _size(target)

    def _go_on(self, url: str, part: Path) -> None:
        """Fetch the missing part of a file, or the whole file if the server has another version of it now."""
        version, have = part.with_suffix(".version"), _size(part)
        known = version.read_text(encoding="utf-8") if version.is_file() else ""
        headers = {"Range": f"bytes={have}-", "If-Range": known} if have and known else {}
        with self.session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing is left, or the file is shorter now: the checksum decides
                return
            _check(answer)
            more = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-") and answer.status_code == 206
            if answer.status_code == 206 and not more:
                raise requests.ConnectionError("the server sent another part than was asked for")
            with part.open("ab" if more else "wb") as stream:
                if not more:
                    have = 0
                    write_text(version, answer.headers.get("ETag") or answer.headers.get("Last-Modified", ""))
                while block := answer.raw.read1(_BLOCK):
                    stream.write(block)
                    if self.stop.is_set():
                        raise VirnucError(f"{url}: stopped; give the same command again to resume")
        announced = answer.headers.get("Content-Length")
        if announced and _size(part) != have + int(announced):
            raise requests.ConnectionError("the connection broke off")

    def _persist(self, url: str, get: Callable[[], T], gained: Callable[[], int]) -> T:
        """Retry with growing waits until it works or has failed too often without progress."""
        failures = 0
        while True:
            before = gained()
            try:
                return get()
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                failures = 1 if gained() > before else failures + 1
                if failures == _TRIES:
                    reason = " ".join(str(error).split())[:200]
                    raise VirnucError(
                        f"{url}: {reason}; {_TRIES} times; give the same command again to resume"
                    ) from error
            self.wait(min(_LONGEST_WAIT, 2.0 ** (failures - 1)))


def _check(answer: requests.Response) -> None:
    """Raise an error of requests if a retry may help, a DataError if not."""
    if 400 <= answer.status_code < 500 and answer.status_code not in _PASSING:
        raise DataError(f"{answer.url}: the server answers {answer.status_code} {answer.reason}; see --mirror")
    answer.raise_for_status()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
