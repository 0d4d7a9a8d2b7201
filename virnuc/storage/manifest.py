"""The manifest: what a stage wrote, its parameters and inputs, and what was dropped and why.

A stage writes `manifest.json` last and atomically. A directory without one is unfinished; the same command
finishes it. A directory whose manifest names other parameters or inputs is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from virnuc.errors import DataError, UsageError
from virnuc.storage.files import read_json, sha256_file, write_text

# By kind of directory. Since 4 all chunks are kept, not only those without a frame.
FORMAT_VERSIONS = {"download": 1, "frames": 4, "chunks": 4, "split": 4, "embeddings": 2, "features": 2, "calls": 2}
_STILL_READ = {"embeddings": 1, "features": 1, "calls": 1}  # an earlier version, whose digest covers the shards alone
_OF_A_MACHINE = ("device", "batch_tokens")  # among the details: the same content may be made with others
_STAGES = {
    "download": "download",
    "frames": "prepare",
    "chunks": "prepare",
    "split": "split",
    "embeddings": "extract",
    "features": "extract",
}
MANIFEST = "manifest.json"
_LONGEST_NAME = 255  # bytes that a file system takes


@dataclass(frozen=True)
class Shard:
    """One file of a directory."""

    path: str  # relative to the directory, with forward slashes
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of a directory. `parameters` and `inputs` decide whether a finished directory can be reused."""

    kind: str  # download, frames, chunks, embeddings, features, split or calls
    parameters: dict[str, Any]  # what decides the content; never device, thread count or path
    inputs: dict[str, str]  # digests of what was read, by name
    counts: dict[str, Any]  # `in`, `out`, and `dropped` by reason
    shards: tuple[Shard, ...]
    details: dict[str, Any] = field(default_factory=dict)  # facts that do not decide the content
    format_version: int = 0  # 0: the kind's current version

    def __post_init__(self) -> None:
        """Fill in the format version."""
        object.__setattr__(self, "format_version", self.format_version or FORMAT_VERSIONS[self.kind])

    @property
    def digest(self) -> str:
        """SHA-256 over the whole manifest except device and batch size: the identity of the content.

        In an earlier format that can still be read it covers the shards alone.
        """
        document = asdict(self)
        if self.format_version == _STILL_READ.get(self.kind):
            lines = sorted(f"{shard.path} {shard.sha256}" for shard in self.shards)
            return hashlib.sha256("\n".join([self.kind, *lines]).encode()).hexdigest()
        document["details"] = {key: value for key, value in self.details.items() if key not in _OF_A_MACHINE}
        document["shards"] = sorted(document["shards"], key=lambda shard: str(shard["path"]))
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Number of rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    def write(self, directory: Path) -> None:
        """Write this manifest into `directory`, whole or not at all."""
        document = {**asdict(self), "digest": self.digest}
        write_text(directory / MANIFEST, json.dumps(document, indent=1, sort_keys=True) + "\n")


def describe_shard(directory: Path, path: Path, rows: int) -> Shard:
    """Return the manifest's record of the finished file `path` below `directory`."""
    return Shard(path.relative_to(directory).as_posix(), rows, sha256_file(path))


def has_manifest(directory: Path) -> bool:
    """Return whether a stage has finished `directory`."""
    return (directory / MANIFEST).is_file()


def read_manifest(directory: Path, *kinds: str) -> Manifest:
    """Read the manifest of `directory`, which must be of one of `kinds`.

    Raises:
        UsageError: there is no such directory.
        DataError: the directory is unfinished, of another kind or version, or its manifest was edited.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory; run the stage that writes it first")
    path = directory / MANIFEST
    if not path.is_file():
        raise DataError(f"{directory}: no {MANIFEST}, so it is empty or unfinished; run the stage that writes it again")
    manifest = _parse(path)
    if manifest.kind not in kinds:
        raise DataError(f"{directory}: holds {manifest.kind}, but {' or '.join(kinds)} is needed here")
    return manifest


def verified_manifest(directory: Path, *kinds: str) -> Manifest:
    """Read the manifest of a directory that a stage is about to read, and compare each shard with its digest.

    Raises:
        UsageError: there is no such directory.
        DataError: as `read_manifest`; or a shard is missing or differs.
    """
    manifest = read_manifest(directory, *kinds)
    for shard in manifest.shards:
        path = directory / shard.path
        if not path.is_file():
            raise DataError(f"{path}: the manifest lists this file, but it is missing; run the stage again")
        if sha256_file(path) != shard.sha256:
            raise DataError(f"{path}: changed since it was written; delete {directory} and run the stage again")
    return manifest


def check_reusable(
    directory: Path, parameters: Mapping[str, Any], inputs: Mapping[str, str] | None, kind: str
) -> Manifest:
    """Return the manifest of a finished `directory` if it was made with these parameters and inputs (None: any).

    Raises:
        DataError: it was made with others; the message names the first difference.
    """
    manifest = read_manifest(directory, kind)
    same = manifest.inputs if inputs is None else inputs
    for label, old, new in (("made with", manifest.parameters, parameters), ("made from", manifest.inputs, same)):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise DataError(
                    f"{directory}: already {label} {key}={old.get(key)}, not {new.get(key)}; "
                    "give another --out or delete the directory"
                )
    return manifest


def _parse(path: Path) -> Manifest:
    document = read_json(path)
    try:
        digest = document.pop("digest")
        document["shards"] = tuple(Shard(**shard) for shard in document["shards"])
        manifest = Manifest(**document)
        known = FORMAT_VERSIONS[manifest.kind]
        if not all(isinstance(getattr(manifest, name), dict) for name in ("parameters", "inputs", "counts", "details")):
            raise TypeError("parameters, inputs, counts and details are mappings")
        if not all(isinstance(shard.path, str) and type(shard.rows) is int for shard in manifest.shards):
            raise TypeError("a shard has a path and a number of rows")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest of virnuc ({error})") from error
    if manifest.format_version not in (_STILL_READ.get(manifest.kind), known):
        raise DataError(_outdated(path, manifest))
    for shard in manifest.shards:
        parts = Path(shard.path).parts
        if Path(shard.path).is_absolute() or ".." in parts:
            raise DataError(f"{path}: names a file outside its directory: {shard.path}")
        if not shard.path.isprintable() or any(len(part.encode()) > _LONGEST_NAME for part in parts):
            raise DataError(f"{path}: names an impossible file: {shard.path[:80]!r}")
    if digest != manifest.digest:
        raise DataError(f"{path}: its digest does not match its content, so it was edited; run the stage again")
    return manifest


def _outdated(path: Path, manifest: Manifest) -> str:
    """Return a message with the version found and the command that makes the directory again."""
    if manifest.format_version > FORMAT_VERSIONS[manifest.kind]:
        found, known = manifest.format_version, FORMAT_VERSIONS[manifest.kind]
        return f"{path}: {manifest.kind} of format version {found}, newer than {known}; install a newer virnuc"
    stage = _STAGES.get(manifest.kind, "predict")
    directory = path.parent.parent if manifest.kind == "chunks" else path.parent
    given = "".join(f" --{name.replace('_', '-')}={value}" for name, value in sorted(manifest.parameters.items()))
    return (
        f"{path}: {manifest.kind} of format version {manifest.format_version}; this virnuc reads "
        f"{FORMAT_VERSIONS[manifest.kind]}. To make them again, delete {directory} and run "
        f"python -m entrypoints.{stage} --source=DIR{given} --out={directory}"
    )
