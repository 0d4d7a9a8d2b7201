import gzip
import io

import pytest
from Bio import SeqIO

from virnuc.errors import ParseError, UsageError
from virnuc.sequences.reading import read_records


def test_genbank_is_read_as_biopython_reads_it(genomes):
    path = genomes / "vertebrate_mammalian.1.genomic.gbff.gz"
    with gzip.open(path, "rt") as stream:
        expected = list(SeqIO.parse(stream, "genbank"))
    read = list(read_records(path))
    assert [genome.accession for genome in read] == [record.id for record in expected]
    for genome, record in zip(read, expected, strict=True):
        assert genome.sequence == str(record.seq).upper()
        assert genome.organism == record.annotations["organism"]
        assert genome.lineage == "; ".join(record.annotations["taxonomy"])
        translations = [f.qualifiers["translation"][0] for f in record.features if "translation" in f.qualifiers]
        assert list(genome.translations) == translations


@pytest.mark.parametrize("zipped", [False, True])
def test_fasta_and_fastq(tmp_path, zipped):
    for text in (">a first one\nacgu\nNN\n>b\nAC\n", "@a first one\nacguNN\n+\nIIIIII\n@b\nAC\n+\nII\n"):
        path = tmp_path / "reads"
        path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
        first, second = read_records(path)
        assert (first.accession, first.organism, first.sequence) == ("a", "first one", "ACGTNN")
        assert (second.accession, second.sequence, second.translations) == ("b", "AC", ())


def test_a_genbank_file_cut_in_half_is_named_with_record_and_line(genomes, tmp_path):
    text = gzip.decompress((genomes / "archaea.1.genomic.gbff.gz").read_bytes())
    for end in (len(text) // 2, len(text) - 100):
        path = tmp_path / "archaea.gbff"
        path.write_bytes(text[:end])
        whole = text[:end].count(b"\n//")
        with pytest.raises(ParseError, match=rf"archaea\.gbff, record {whole + 1}, line \d+: "):
            list(read_records(path))


def test_a_gzip_file_cut_in_half(genomes, tmp_path):
    path = tmp_path / "archaea.gbff.gz"
    whole = (genomes / "archaea.1.genomic.gbff.gz").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ParseError, match="gzip data is cut short"):
        list(read_records(path))


def test_a_sequence_shorter_than_its_locus_line(genomes, tmp_path):
    text = gzip.decompress((genomes / "vertebrate_other.1.genomic.gbff.gz").read_bytes()).decode()
    lines = text.splitlines(keepends=True)
    del lines[lines.index("//\n") - 1]
    path = tmp_path / "other.gbff"
    path.write_text("".join(lines))
    with pytest.raises(ParseError, match="1500 bytes of sequence, LOCUS promised 1510"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "empty, or neither"),
        ("hello", "empty, or neither"),
        (">a\nACGT!\n", "'!' at base 5 is not an IUPAC base"),
        (">a\nMKV*\n", "not an IUPAC base"),
        (">\nACGT\n", "cannot use '' as a name"),
        (f">{'a' * 5000}\nACGT\n", "as a name"),
        (">a_chunk_1\nACGT\n", "as a name"),
        ("@a\nACGT\n+\nII\n", "Length of sequence and qualities differ"),
        ("@a\nACGT\n", "Premature end of file"),
    ],
)
def test_hostile_files_are_named(tmp_path, content, problem):
    path = tmp_path / "reads.fa"
    path.write_text(content)
    with pytest.raises(ParseError, match=r"reads\.fa") as caught:
        list(read_records(path))
    assert problem in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        list(read_records(tmp_path / "nothing"))


def test_damage_inside_gzip(tmp_path):
    buffer = io.BytesIO()
    with gzip.open(buffer, "wb") as stream:
        stream.write(b">a\n" + b"ACGT" * 5000)
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "a.fa.gz"
    path.write_bytes(bytes(data))
    with pytest.raises(ParseError):
        list(read_records(path))
