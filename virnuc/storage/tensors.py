"""Reading and writing by `torch.save`, without running a pickle."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from virnuc.errors import DataError, UsageError
from virnuc.storage.files import atomic_path


def save_plain(path: Path, value: Any) -> None:
    """Write tensors and plain values, whole or not at all; the same content always gives the same bytes."""
    # Given a stream instead of a name, torch does not write the (temporary) name into the file.
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        torch.save(value, stream)


def load_plain(path: Path, *, mmap: bool = False, stand_ins: Sequence[tuple[type, str]] = ()) -> Any:
    """Return what `torch.save` wrote to `path`, if it is made of tensors and plain values only.

    Args:
        path: the file.
        mmap: leave the tensors' values on disk until they are used.
        stand_ins: classes that take the place of others in the file, each with the name of that other class.

    Raises:
        UsageError: there is no such file.
        DataError: it is damaged or holds something else.
    """
    try:
        with torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: refused, nothing was run: it holds more than tensors and plain values ({_culprit(error)}); "
            "for a model of VirNucPro use import_model"
        ) from error
    except Exception as error:  # a damaged file makes torch's reader raise nearly anything, such as struct.error
        first = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"{path}: cut short, damaged or not saved by torch.save ({first})") from error


def _culprit(error: Exception) -> str:
    """Return the part of torch's message that names what was refused."""
    parts = str(error).split("GLOBAL ")
    return parts[1].split()[0] if len(parts) > 1 else str(error).splitlines()[0][:80]
