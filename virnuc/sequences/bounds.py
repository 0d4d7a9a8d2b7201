"""Safe opening of untrusted sequence files: no header, line or nesting can fill the memory or crash the process.

A gzip of 5 MB may hold a header of 5 GB, and a GenBank location nested 50,000 times would crash its parser. Text is
checked block by block as it is unpacked, before a parser sees it. Parsers then hold one record at a time.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from isal import igzip

MAX_LINE = 1_000_000  # bytes of a FASTA header, and of any line of a GenBank file
MAX_READ = 100_000_000  # bytes of a line of a FASTQ file
MAX_RECORD = 2_000_000_000  # bytes of a FASTA or GenBank record; a chromosome of wheat has 1,100,000,000
_BLOCK = 1 << 18
_TAIL = 256  # bytes that are kept from the end of the last block
_GZIP_MAGIC = b"\x1f\x8b"
_NESTED = re.compile(rb"\((?:\s*[a-z-]+\(){49}")  # as in complement(join(


class BoundError(OSError):
    """A file exceeds a bound: it is damaged or hostile."""


class BoundedText(io.RawIOBase):
    """The text of a FASTA, FASTQ or GenBank file, refused as soon as it exceeds a bound."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._format = b""  # its first letter: > for FASTA, @ for FASTQ, L for GenBank
        self._first = b""  # the first letter of the line that is being read
        self._line = self._record = 0  # bytes of it, and of the record, so far
        self.tail = b""  # the last bytes read

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with text that was checked.

        Raises:
            BoundError: a header, a line or a record is too long, or a location too deep.
        """
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        if block:
            self._look(block)
        return len(block)

    def _look(self, block: bytes) -> None:
        self._format = self._format or block.lstrip()[:1]
        text = self.tail + block
        if self._format == b"L" and _NESTED.search(text):
            raise BoundError("a location is nested 50 deep; the file is damaged or hostile")
        self._first = self._first or block[:1]
        end = block.find(b"\n")
        self._measure_line(len(block) if end < 0 else end)
        if end >= 0:
            last = block[block.rfind(b"\n") + 1 :]
            self._first, self._line = last[:1], 0
            self._measure_line(len(last))
        start = text.rfind(b"\nLOCUS" if self._format == b"L" else b"\n" + self._format)
        self._record = len(text) - start if start >= 0 else self._record + len(block)
        if self._record > MAX_RECORD and self._format != b"@":
            raise BoundError(f"a record is longer than {MAX_RECORD:,} bytes")
        self.tail = text[-_TAIL:]

    def _measure_line(self, more: int) -> None:
        self._line += more
        limit = {b"L": MAX_LINE, b"@": MAX_READ}.get(self._format, MAX_LINE if self._first == b">" else MAX_RECORD)
        if self._line > limit:
            raise BoundError(f"a header or line is longer than {limit:,} bytes; the file is damaged or hostile")


@contextmanager
def bounded(path: Path) -> Iterator[tuple[io.BufferedReader, BoundedText]]:
    """Yield a file's text, unpacked if it is gzipped, and the object that checks it."""
    with path.open("rb") as raw:
        yield bounded_stream(raw)


def bounded_stream(raw: io.BufferedReader) -> tuple[io.BufferedReader, BoundedText]:
    """Return the text of an open file, unpacked if it is gzipped, and the object that checks it."""
    zipped = raw.peek(2)[:2] == _GZIP_MAGIC
    text = BoundedText(cast(IO[bytes], igzip.open(raw)) if zipped else raw)  # closed with `raw`
    return io.BufferedReader(text, _BLOCK), text
