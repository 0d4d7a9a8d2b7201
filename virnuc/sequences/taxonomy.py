"""Lineages from NCBI's taxonomy dump, for records that have none: `nodes.dmp` and `names.dmp`.

Columns: https://ftp.ncbi.nlm.nih.gov/pub/taxonomy/new_taxdump/taxdump_readme.txt. A lineage is what GenBank's ORGANISM
block gives: the taxa above, from the root down, without those that the dump hides from it. With all of NCBI's taxa it
takes some 200 MB in each worker.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from virnuc.errors import DataError, UsageError

NODES, NAMES = "nodes.dmp", "names.dmp"
_ROOT = 1
_HIDDEN = 10  # column of nodes.dmp: 1 if GenBank's lineages leave the taxon out


class Taxonomy:
    """The tree of taxa and their scientific names."""

    def __init__(self, directory: Path) -> None:
        """Read a dump.

        Raises:
            UsageError: a file is missing.
            DataError: a file is not a table of taxa.
        """
        try:
            nodes = _columns(directory / NODES, {0: pa.int64(), 1: pa.int64(), _HIDDEN: pa.string()})
            names = _columns(directory / NAMES, {0: pa.int64(), 1: pa.string(), 3: pa.string()})
            names = names.filter(pc.equal(names["3"], "scientific name"))
            taxa = nodes["0"].to_numpy()
            self._parents = np.zeros(int(taxa.max()) + 1, dtype=np.int32)  # by taxon, 0 for none
            self._shown = np.zeros(len(self._parents), dtype=bool)
            self._rows = np.full(len(self._parents), -1, dtype=np.int32)  # of the names
            self._parents[taxa] = nodes["1"].to_numpy()
            self._shown[taxa] = pc.not_equal(nodes[str(_HIDDEN)], "1").to_numpy()
            self._rows[names["0"].to_numpy()] = np.arange(len(names))
        except (pa.ArrowException, ValueError, IndexError) as error:
            raise DataError(f"{directory}: not NCBI's {NODES} and {NAMES} ({str(error)[:120]})") from error
        self._names = names["1"].combine_chunks()

    def lineage(self, taxon: int) -> str:
        """Return the taxa above one, joined by `; `; empty if it is unknown."""
        found: list[str] = []
        seen = {_ROOT, 0}
        taxon = self._parent(taxon)
        while taxon not in seen:
            seen.add(taxon)
            if self._shown[taxon] and self._rows[taxon] >= 0:
                found.append(self._names[int(self._rows[taxon])].as_py())
            taxon = self._parent(taxon)
        return "; ".join(reversed(found))

    def _parent(self, taxon: int) -> int:
        return int(self._parents[taxon]) if 0 < taxon < len(self._parents) else 0


def _columns(path: Path, wanted: dict[int, pa.DataType]) -> pa.Table:
    """Return columns by their numbers; fields are separated by tab, bar, tab."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; --taxonomy needs a directory with {NODES} and {NAMES}")
    table = csv.read_csv(
        path,
        read_options=csv.ReadOptions(autogenerate_column_names=True),
        parse_options=csv.ParseOptions(delimiter="|", quote_char=False),
        convert_options=csv.ConvertOptions(
            include_columns=[f"f{number}" for number in wanted],
            column_types={f"f{number}": pa.string() for number in wanted},
            strings_can_be_null=False,
        ),
    )
    trimmed = [pc.utf8_trim_whitespace(table[f"f{number}"]).cast(kind) for number, kind in wanted.items()]
    return pa.table(trimmed, names=[str(number) for number in wanted])
