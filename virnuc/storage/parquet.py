"""Tables from Parquet files that may come from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.errors import DataError


def read_table(
    path: Path, remedy: str, columns: Sequence[str] | None = None, repeated: Sequence[str] | None = None
) -> pa.Table:
    """Read a Parquet file, in which every value is checked, such as whether strings are UTF-8.

    What other programs keep in its metadata is dropped: pandas would choose an index and types by it.

    Args:
        path: The file.
        remedy: What the error advises, such as "run split again".
        columns: Those to read; None for all.
        repeated: Columns of strings to keep once for each value (dictionaries).

    Raises:
        DataError: it is no such file, is damaged, or lacks a column.
    """
    try:
        table = pq.read_table(path, columns=columns and list(columns), read_dictionary=repeated and list(repeated))
        table.validate(full=True)
    except (OSError, UnicodeError, pa.ArrowException) as error:  # a column's name may be no text
        raise DataError(f"{path}: not a readable Parquet file ({error}); {remedy}") from error
    return table.replace_schema_metadata()
