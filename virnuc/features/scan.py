"""The scan of a feature set: every byte hashed and every value checked, once, and the result remembered.

The result lies in `scan.json` beside the shards, with each file's size and time of change; only files that are new
or changed since are scanned again. The shards themselves are never written to.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from virnuc.errors import DataError
from virnuc.storage.files import sha256_file, write_text

SCAN = "scan.json"
SCAN_VERSION = 1
Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # wraps an iterable of known length, as tqdm does
_ROWS_AT_ONCE = 1024
_log = logging.getLogger(__name__)


class Scannable(Protocol):
    """What is scanned: a shard of a feature set."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def ids(self) -> Sequence[str]:
        """The frame id of each row."""

    @property
    def data(self) -> Tensor:
        """The vectors, `[n, d]` float32."""


def scan(directory: Path, shards: Sequence[Scannable], progress: Progress) -> dict[str, str]:
    """Return the SHA-256 of each shard by its path relative to `directory`, having checked all values.

    Raises:
        DataError: a value is NaN or infinite; the message names file, row and frame.
    """
    remembered = _read(directory / SCAN)
    names = {shard.path.relative_to(directory).as_posix(): shard for shard in shards}
    known = {name: remembered[name] for name, shard in names.items() if _unchanged(remembered.get(name), shard.path)}
    new = [name for name in names if name not in known]
    if new:
        for name in progress(new, len(new)):
            known[name] = _scan_shard(names[name])
        _remember(directory / SCAN, known)
    return {name: known[name]["sha256"] for name in names}


def _scan_shard(shard: Scannable) -> dict[str, Any]:
    described = _stat(shard.path) | {"sha256": sha256_file(shard.path)}
    for start in range(0, len(shard.data), _ROWS_AT_ONCE):
        finite = torch.isfinite(shard.data[start : start + _ROWS_AT_ONCE])
        if not finite.all():
            row, column = (int(value) for value in (~finite).nonzero()[0])
            value = float(shard.data[start + row, column])
            raise DataError(
                f"{shard.path}, row {start + row}: {value} at column {column} (frame {shard.ids[start + row]}); "
                "extract this file again"
            )
    return described


def _stat(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"size": status.st_size, "changed_ns": status.st_mtime_ns}


def _unchanged(record: dict[str, Any] | None, path: Path) -> bool:
    return record is not None and {**_stat(path), "sha256": record.get("sha256")} == record


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the records of an earlier scan; none if there was none or it cannot be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return dict(document["shards"]) if document["scan_version"] == SCAN_VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _remember(path: Path, records: dict[str, dict[str, Any]]) -> None:
    document = {"scan_version": SCAN_VERSION, "shards": records}
    try:
        write_text(path, json.dumps(document, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        _log.warning("%s cannot be written (%s): these features will be scanned again next time", path, error)
