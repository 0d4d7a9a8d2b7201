"""Reading what `torch.save` wrote, without running its pickle."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from virnuc.errors import DataError, UsageError


def load_plain(path: Path) -> Any:
    """Return what `torch.save` wrote to `path`, if it is made of tensors and plain values only.

    Raises:
        UsageError: there is no such file.
        DataError: it is damaged or holds something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds something other than tensors and plain values; it was not loaded. If it is a pickled "
            "model of VirNucPro, import it with import_model"
        ) from error
    except (RuntimeError, ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path}: cut short or damaged ({str(error)[:120]!r})") from error
