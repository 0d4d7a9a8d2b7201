"""Files made to exhaust a reader's memory are refused early, with the names of file and record."""

import gzip
import resource
import subprocess
import sys

import pytest

from virnuc.errors import ParseError
from virnuc.prediction.reading import read_records as read_sequences
from virnuc.sequences import bounds
from virnuc.sequences.reading import read_records

RECORD = """LOCUS       A1                        12 bp    DNA     linear   VRL 01-JAN-2020
DEFINITION  a.
ACCESSION   A1
VERSION     A1.1
FEATURES             Location/Qualifiers
     CDS             {location}
                     /note="x"
ORIGIN
        1 acgtacgtac gt
//
"""


def refusal(path):
    with pytest.raises(ParseError) as caught:
        list(read_records(path))
    return str(caught.value)


@pytest.mark.e2e
@pytest.mark.parametrize("read", [read_records, read_sequences])
def test_a_small_gzip_with_a_huge_header_takes_no_memory(tmp_path, read):
    path = tmp_path / "a.fa.gz"
    path.write_bytes(gzip.compress(b">a\nACGT\n>" + b"x" * 300_000_000, compresslevel=1))
    argument = f"[{str(path)!r}]" if read is read_sequences else f"Path({str(path)!r})"
    code = f"from pathlib import Path; from {read.__module__} import read_records; list(read_records({argument}))"
    limit = 700_000_000  # bytes of address space; libraries take most of it
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert "a header or line is longer than 1,000,000 bytes" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("gap", ["", "\n                     "])
def test_a_location_nested_50000_times_does_not_end_the_process(tmp_path, gap):
    path = tmp_path / "a.gbff"
    nested = gap.join(["complement("] * 50_000) + "1..9" + ")" * 50_000
    path.write_text(RECORD.format(location="1..9") + RECORD.format(location=nested))
    assert "a.gbff, record " in refusal(path)
    path.write_text(RECORD.format(location="complement(join(complement(1..3),4..9))"))
    assert len(list(read_records(path))) == 1


def test_records_and_reads_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_RECORD", 1_000_000)
    monkeypatch.setattr(bounds, "MAX_READ", 1_000_000)
    path = tmp_path / "a.fa"
    lines = b"ACGT\n" * 150_000
    path.write_bytes(b">a\n" + lines + b">b\n" + lines)
    assert [len(record.sequence) for record in read_records(path)] == [600_000] * 2
    path.write_bytes(b">a\n" + lines + lines)
    assert "longer than 1,000,000 bytes" in refusal(path)
    path.write_bytes(b"@a\n" + b"A" * 1_100_000)
    assert "longer than 1,000,000 bytes" in refusal(path)


def test_a_genbank_file_cut_anywhere_but_behind_a_record_is_refused(tmp_path):
    path = tmp_path / "a.gbff"
    text = RECORD.format(location="1..9")
    for cut in range(1, len(text) - 2, 7):
        path.write_text(text + text.replace("A1", "A2")[:cut])
        assert "a.gbff, record" in refusal(path)
    path.write_text(text + "\n\n")
    assert len(list(read_records(path))) == 1
