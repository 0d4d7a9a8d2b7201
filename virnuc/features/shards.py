"""One feature shard: a file of ids, vectors and one label, in the format of VirNucPro.

A shard is a dict saved by `torch.save`: `ids` (list of str), `data` (float32 `[n, d]`, or float16 where the manifest
says so) and `labels` (`[0]` or `[1]`, one label for all rows). A file from elsewhere is hostile until read: no pickle
is run, and the vectors stay on disk, memory-mapped, until a row is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from virnuc.errors import DataError, UsageError
from virnuc.storage.tensors import load_plain, save_plain

STORAGES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class FeatureShard:
    """The content of one file. Two million ids as Python objects take 150 MB; packed they take 50."""

    path: Path
    packed_ids: pa.StringArray  # n of them, each once
    data: Tensor  # [n, d] float32 or float16, memory-mapped: a row is read from disk when it is used
    label: int  # 1 viral, 0 non-viral; the same for all rows

    @property
    def ids(self) -> list[str]:
        """The frame id of each row."""
        return self.packed_ids.to_pylist()


def storage_of(details: Mapping[str, Any]) -> torch.dtype:
    """Return the type of a feature set's values on disk, which its manifest's details name unless it is float32.

    Raises:
        DataError: they name another type than float16.
    """
    if details.get("storage", "float32") not in STORAGES:
        raise DataError(f"features of type {details['storage']}; this virnuc reads {' and '.join(STORAGES)}")
    return STORAGES[details.get("storage", "float32")]


def write_shard(path: Path, ids: Sequence[str], data: Tensor, label: int, storage: torch.dtype = torch.float32) -> None:
    """Write a shard, whole or not at all; the same content always gives the same bytes.

    Args:
        path: the file to write; its directory is made if need be.
        ids: n frame ids, each once.
        data: `[n, d]` in float32 or `storage`, on any device.
        label: 1 viral, 0 non-viral.
        storage: type on disk, float32 or float16.

    Raises:
        DataError: ids and rows are out of step, an id occurs twice, or a value is wrong, or too large for float16.
    """
    document = {"ids": list(ids), "data": data, "labels": [label]}
    _check(path, document, torch.float32, storage)
    # A view would drag its whole storage into the file.
    stored = data.detach().to("cpu", storage, copy=True).contiguous()
    if storage is torch.float16 and not stored.isfinite().all():
        raise DataError(f"{path}: a value is beyond 65,504, the largest of float16; use --storage float32")
    save_plain(path, document | {"data": stored})


def read_shard(path: Path, storage: torch.dtype = torch.float32) -> FeatureShard:
    """Read a shard of vectors of type `storage` without running its pickle and without loading the vectors.

    Raises:
        DataError: the file is missing, empty, cut short, of another format, or its content is not a shard's; the
            message names the file and, where there is one, the row.
    """
    try:
        document = load_plain(path, mmap=True)
    except UsageError as error:  # the file is named by a manifest, not by a user
        raise DataError(str(error)) from error
    _check(path, document, storage)
    return FeatureShard(path, pa.array(document["ids"], pa.string()), document["data"], int(document["labels"][0]))


def _check(path: Path, document: Any, *allowed: torch.dtype) -> None:
    if not isinstance(document, dict) or not {"ids", "data", "labels"} <= document.keys():
        raise DataError(f"{path}: not a feature shard; a dict with ids, data and labels is needed")
    _check_label(path, document["labels"])
    _check_data(path, document["data"], allowed)
    _check_ids(path, document["ids"], len(document["data"]))


def _check_label(path: Path, labels: Any) -> None:
    if not (isinstance(labels, list) and len(labels) == 1 and type(labels[0]) is int and labels[0] in (0, 1)):
        shown = str(labels)[:60]
        raise DataError(f"{path}: labels are {shown}; a shard has one label for all rows, [0] or [1]")


def _check_data(path: Path, data: Any, allowed: Sequence[torch.dtype]) -> None:
    if not isinstance(data, Tensor) or data.layout is not torch.strided or data.is_meta:
        raise DataError(f"{path}: data is not a dense tensor")
    if data.dtype not in allowed:
        found, needed = (str(dtype).removeprefix("torch.") for dtype in (data.dtype, allowed[0]))
        raise DataError(f"{path}: data is {found}, but {needed} is needed")
    if data.dim() != 2 or not data.numel():
        raise DataError(f"{path}: data has shape {list(data.shape)}, but [rows, width] is needed, neither of them 0")
    # A stride of 0 would let a small file claim any number of values.
    if not data.is_contiguous() and data.untyped_storage().nbytes() < data.numel() * data.element_size():
        raise DataError(f"{path}: data claims {data.numel()} values but the file holds fewer")


def _check_ids(path: Path, ids: Any, rows: int) -> None:
    if not isinstance(ids, list):
        raise DataError(f"{path}: ids is not a list")
    if len(ids) != rows:
        raise DataError(f"{path}: {len(ids)} ids for {rows} rows; it cannot be known which row is whose")
    seen: dict[str, int] = {}
    for row, identifier in enumerate(ids):
        if not isinstance(identifier, str) or not identifier.isprintable() or not identifier:  # a lone surrogate is not
            raise DataError(f"{path}, row {row}: the id is {identifier!r}, not a text")
        if seen.setdefault(identifier, row) != row:
            raise DataError(f"{path}, row {row}: the id {identifier} is already that of row {seen[identifier]}")
