"""Finding the sequence files of a directory and the group, such as a RefSeq division, that each one belongs to."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from virnuc.errors import DataError, UsageError
from virnuc.settings import REFSEQ_DIVISIONS

_VIRAL = re.compile("vir|phage", re.IGNORECASE)  # names that nobody gives to what is not viral
_GROUP = re.compile(r"[a-z][a-z0-9_]*")
SUFFIXES = (".gbff", ".gbk", ".gb", ".genbank", ".fasta", ".fa", ".fna", ".fastq", ".fq")


@dataclass(frozen=True)
class SourceFile:
    """A sequence file and its group, which is the part of its name before the first dot."""

    path: Path
    group: str


def find_sources(directory: Path) -> list[SourceFile]:
    """Return the sequence files of a directory, named `<group>.*` as in RefSeq's releases, in name order.

    Raises:
        UsageError: there is no such directory.
        DataError: it holds no sequence file, or one whose group cannot name a directory or is nearly a RefSeq division:
            a file `viruses.fa` must not become non-viral by its name.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory; --source needs one with files like viral.1.genomic.gbff.gz")
    paths = sorted(path for path in directory.iterdir() if path.is_file() and _is_sequence_file(path))
    if not paths:
        raise DataError(f"{directory}: no sequence files ({', '.join(SUFFIXES)}, plain or .gz)")
    return [SourceFile(path, _group(path)) for path in paths]


def _is_sequence_file(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(SUFFIXES)


def _group(path: Path) -> str:
    group = path.name.split(".")[0]
    if group in REFSEQ_DIVISIONS:
        return group
    nearest = ["viral"] if _VIRAL.search(group) else difflib.get_close_matches(group.lower(), REFSEQ_DIVISIONS, n=1)
    if nearest:
        raise DataError(f"{path}: its name must begin with the group and a dot; did you mean {nearest[0]}?")
    if not _GROUP.fullmatch(group):
        raise DataError(f"{path}: its name must begin with the group, in small letters, digits and _, and a dot")
    return group
