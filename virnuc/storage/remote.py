"""Directories and files at a URL: `s3://`, `gs://`, and what else pyarrow has a file system for.

A stage works on local files. Its inputs are first copied to a staging directory, which is kept; its output is copied
back at the end. A directory with a manifest is copied as a unit: first the files, which are compared with the
manifest's digests when they arrive, and the manifest last, so that an incomplete directory never
looks finished at either end. A directory whose manifest is the same at both ends is not copied again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from virnuc.errors import DataError, UsageError, VirnucError
from virnuc.settings import (
    DownloadSettings,
    ExtractSettings,
    FeatureSource,
    PredictSettings,
    PrepareSettings,
    Settings,
    SplitSettings,
)
from virnuc.storage.directory import PROGRESS
from virnuc.storage.files import atomic_path
from virnuc.storage.manifest import FORMAT_VERSIONS, MANIFEST, verified_manifest

S = TypeVar("S", bound=Settings)
STAGING = "VIRNUC_STAGING"  # environment variable: directory of the copies
_READ = ("source", "frames", "features", "split", "input")  # parameters that name what is read
_WRITTEN = "out"
_WRITERS = (DownloadSettings, PrepareSettings, ExtractSettings, SplitSettings, PredictSettings)  # of manifests
_URL = re.compile(r"(s3|gs|gcs|abfss?|hdfs|viewfs)://")
_AT_ONCE = 4  # files
_BLOCK = 1 << 20  # bytes


@contextmanager
def on_this_machine(settings: S) -> Iterator[S]:
    """Yield settings with local paths in place of URLs; copy back the output at the end.

    Raises:
        UsageError: a URL for a parameter that needs a local path, or one that cannot be read.
        DataError: a directory arrives changed, or the output's URL holds another result.
        VirnucError: the store does not answer, or refuses.
    """
    changed: dict[str, Any] = {}
    for declared in fields(settings):
        value = getattr(settings, declared.name)
        items = value if isinstance(value, tuple) else (value,)
        if not any(_URL.match(str(item)) for item in items):
            continue
        if declared.name not in _READ and not (declared.name == _WRITTEN and isinstance(settings, _WRITERS)):
            raise UsageError(f"--{declared.name.replace('_', '-')} {value}: give a local path, not a URL")
        local = tuple(_fetched(item, declared.name != _WRITTEN) for item in items)
        changed[declared.name] = local if isinstance(value, tuple) else local[0]
    yield replace(settings, **changed)
    if _WRITTEN in changed:
        put(Path(changed[_WRITTEN]), getattr(settings, _WRITTEN))


def _fetched(item: Any, needed: bool) -> Any:
    if isinstance(item, FeatureSource):
        return replace(item, directory=_fetched(item.directory, needed))
    return str(fetch(item, needed=needed)) if _URL.match(item) else item


def fetch(url: str, *, needed: bool) -> Path:
    """Copy the file, or the directories, at a URL to the staging directory; return the copy's path.

    Args:
        url: what to copy.
        needed: whether it must exist; an output to be finished need not.
    """
    local = Path(os.environ.get(STAGING, "data/staging")) / url.split("?")[0].replace("://", "/")
    with _store(url) as (store, root):
        if store.get_file_info(root).type is fs.FileType.File:
            _download(store, root, local)
            return local
        files = _files(store, root)
        if needed and not files:
            raise UsageError(f"{url}: there is nothing at this URL")
        local.mkdir(parents=True, exist_ok=True)
        for directory, names in _by_manifest(files).items():
            there, here = f"{root}/{directory}".removesuffix("/."), local / directory
            if MANIFEST in names:
                _fetch_directory(store, there, here, names)
            elif needed and len(names) == len(files):  # genomes, or VirNucPro's own features
                _each(names, lambda name: _download(store, f"{root}/{name}", local / name))
    return local


def put(local: Path, url: str) -> None:
    """Copy the finished directories of `local` to a URL, each with its manifest last."""
    files = [path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()]
    with _store(url) as (store, root):
        for directory, names in _by_manifest(files).items():
            there, here = f"{root}/{directory}".removesuffix("/."), local / directory
            if MANIFEST not in names or _is_there(store, there, here):
                continue
            for part in ([name for name in names if name != MANIFEST], [MANIFEST]):
                _each(part, partial(_upload, store, here, there))


def _by_manifest(files: list[str]) -> dict[str, list[str]]:
    """Return files by the nearest directory above them that has a manifest, as paths below it; others by `.`."""
    finished = {PurePosixPath(name).parent for name in files if PurePosixPath(name).name == MANIFEST}
    owned: dict[str, list[str]] = defaultdict(list)
    for path in map(PurePosixPath, files):
        if PROGRESS not in path.parts and not path.name.endswith((".lock", ".partial")):
            owner = next((parent for parent in path.parents if parent in finished), PurePosixPath("."))
            owned[str(owner)].append(path.relative_to(owner).as_posix())
    return dict(owned)


def _fetch_directory(store: fs.FileSystem, there: str, here: Path, names: list[str]) -> None:
    """Copy a directory that has a manifest, unless it was copied before."""
    with store.open_input_file(f"{there}/{MANIFEST}") as stream:
        manifest = stream.read()
    if (here / MANIFEST).is_file() and (here / MANIFEST).read_bytes() == manifest:
        return
    arriving = here / PROGRESS / "arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    _each(names, lambda name: _download(store, f"{there}/{name}", arriving / name))
    verified_manifest(arriving, *FORMAT_VERSIONS)
    for part in ([name for name in names if name != MANIFEST], [MANIFEST]):
        for name in part:
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (arriving / name).replace(here / name)
    shutil.rmtree(here / PROGRESS)


def _is_there(store: fs.FileSystem, there: str, here: Path) -> bool:
    """Return whether the directory exists at the URL already.

    Raises:
        DataError: there is another one.
    """
    if store.get_file_info(f"{there}/{MANIFEST}").type is fs.FileType.NotFound:
        return False
    with store.open_input_file(f"{there}/{MANIFEST}") as stream:
        if stream.read() == (here / MANIFEST).read_bytes():
            return True
    raise DataError(f"{there}: holds another result; give another --out, or delete it and {here}")


def _files(store: fs.FileSystem, root: str) -> list[str]:
    found = store.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    return sorted(entry.path.removeprefix(f"{root}/") for entry in found if entry.type is fs.FileType.File)


def _download(store: fs.FileSystem, there: str, here: Path) -> None:
    with store.open_input_stream(there) as source, atomic_path(here) as temporary, temporary.open("wb") as target:
        shutil.copyfileobj(source, target, _BLOCK)


def _upload(store: fs.FileSystem, here: Path, there: str, name: str) -> None:
    with (here / name).open("rb") as source, store.open_output_stream(f"{there}/{name}") as target:
        shutil.copyfileobj(source, target, _BLOCK)


def _each(names: list[str], move: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(move, names))


@contextmanager
def _store(url: str) -> Iterator[tuple[fs.FileSystem, str]]:
    """Yield the file system of a URL and the path in it; its errors name the URL."""
    shown = url.split("?")[0]
    try:
        store, root = fs.FileSystem.from_uri(url)
        yield store, root.rstrip("/")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"{shown}: {error}") from error
    except OSError as error:
        raise VirnucError(
            f"{shown}: {' '.join(str(error).split())[:300]}; give the same command again to resume"
        ) from error
