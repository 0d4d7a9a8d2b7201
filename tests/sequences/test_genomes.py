"""How prepare assigns records to genomes, from GenBank, from FASTA and from a table."""

import random

import pandas as pd
import pytest

from virnuc.errors import DataError, UsageError
from virnuc.sequences.frames import chunk_shards, frame_shards, read_chunks, read_frames
from virnuc.sequences.genomes import read_genome_table
from virnuc.sequences.preparing import prepare
from virnuc.sequences.reading import read_records
from virnuc.settings import PrepareSettings
from virnuc.storage.manifest import read_manifest


def dna(accession):
    """Return 60 bp that are different for each record, without T, so that the forward strand has no stop codon."""
    return "".join(random.Random(accession).choices("acg", k=60))


def genbank(accession, *, dblink="", organism="Thing one", qualifiers="", submitted=(), date="18-APR-2005"):
    """Return a GenBank record of 60 bp."""
    links = dblink and "DBLINK      " + "\n            ".join(dblink.split("\n")) + "\n"
    references = "".join(
        f"REFERENCE   {number}  (bases 1 to 60)\n  AUTHORS   A,B.\n  TITLE     Direct Submission\n"
        f"  JOURNAL   Submitted ({day}) There\n"
        for number, day in enumerate(submitted, 1)
    )
    return (
        f"LOCUS       {accession:<16} 60 bp    DNA     linear   BCT {date}\n"
        f"DEFINITION  x.\nACCESSION   {accession.split('.')[0]}\nVERSION     {accession}\n{links}KEYWORDS    .\n"
        f"SOURCE      {organism}\n  ORGANISM  {organism}\n            Bacteria; Things.\n{references}"
        "FEATURES             Location/Qualifiers\n     source          1..60\n"
        f'                     /organism="{organism}"\n'
        f"{qualifiers}ORIGIN\n        1 {dna(accession)}\n//\n"
    )


def strain(value, key="strain"):
    return f'                     /{key}="{value}"\n'


def run(source, out, **settings):
    return prepare(PrepareSettings(source=str(source), out=str(out), **settings))


LINKS = "BioProject: PRJNA1\nBioSample: SAMN02604091\nAssembly: GCF_000005845.2"


@pytest.mark.parametrize(
    ("record", "genome", "found_in"),
    [
        (genbank("NZ_ABCD01000012.1", dblink=LINKS, qualifiers=strain("K-12")), "GCF_000005845.2", "assembly"),
        (genbank("NZ_ABCD01000012.1", dblink="BioSample: SAMN02604091"), "SAMN02604091", "biosample"),
        (genbank("NZ_ABCD01000012.1", dblink="BioProject: PRJNA1", qualifiers=strain("K-12")), "NZ_ABCD", "wgs"),
        (genbank("ABCDEF010000012.1"), "ABCDEF", "wgs"),
        (genbank("NC_000913.3", qualifiers=strain("K-12")), "Thing one K-12", "organism"),
        (genbank("NC_000913.3", qualifiers=strain("A") + strain("B", "isolate")), "Thing one A B", "organism"),
        (genbank("NC_000913.3", qualifiers=strain("not applicable")), "NC_000913.3", "record"),
        (genbank("NZ_KB890217.1"), "NZ_KB890217.1", "record"),
        (genbank("AB123456.1", organism=""), "AB123456.1", "record"),
    ],
    ids=lambda value: value.split()[1] if value.startswith("LOCUS") else value,
)
def test_a_genome_is_named_by_the_first_thing_that_the_record_gives(tmp_path, record, genome, found_in):
    (tmp_path / "x.gbff").write_text(record)
    (read,) = read_records(tmp_path / "x.gbff")
    assert (read.genome.name, read.genome.found_in) == (genome, found_in)


def test_the_first_submission_dates_a_record_and_else_its_last_change(tmp_path):
    both = ("16-JAN-1997", "02-Mar-1995")
    records = [genbank("A1.1", submitted=both), genbank("A2.1"), genbank("A3.1", submitted=["99-FOO-1997"])]
    (tmp_path / "x.gbff").write_text("".join(records))
    assert [record.deposited for record in read_records(tmp_path / "x.gbff")] == [
        "1995-03-02",
        "2005-04-18",
        "2005-04-18",
    ]


@pytest.fixture
def source(tmp_path):
    """A directory with two contigs of one project and a segment in FASTA, and a bacterium in GenBank."""
    directory = tmp_path / "source"
    directory.mkdir()
    names = ("NZ_ABCD01000001.1", "NZ_ABCD01000002.1", "SEG1.1", "SEG2.1", "ALONE.1")
    (directory / "viral.1.fa").write_text("".join(f">{name} a virus\n{dna(name)}\n" for name in names))
    (directory / "bacteria.1.gbff").write_text(genbank("NC_1.1", dblink="Assembly: GCF_1") + genbank("NC_2.1"))
    return directory


def table_of(directory):
    return pd.concat([read_frames(path).to_pandas() for path in frame_shards(directory)], ignore_index=True)


def test_frames_chunks_and_counts_name_record_and_genome(source, tmp_path):
    manifest = run(source, tmp_path / "frames", evidence="open")
    frames = table_of(tmp_path / "frames")
    assert (frames["frame_id"].str.rsplit("_chunk_", n=1).str[0] == frames["record"]).all()
    genomes = frames.drop_duplicates("record").set_index("record")["genome"].to_dict()
    assert genomes["NZ_ABCD01000001.1"] == genomes["NZ_ABCD01000002.1"] == "NZ_ABCD"
    assert (genomes["NC_1.1"], genomes["SEG1.1"]) == ("GCF_1", "SEG1.1")
    assert manifest.counts["in"] | {"bases": 0} == {"records": 7, "genomes": 6, "bases": 0, "chunks": 7}
    assert manifest.details["records_by_source_of_genome"] == {"assembly": 1, "record": 4, "wgs": 2}
    counted = pd.read_parquet(tmp_path / "frames" / "genomes.parquet").set_index("record")
    assert counted["genome"].to_dict() == genomes
    assert counted["frames"].to_dict() == frames["record"].value_counts().to_dict()
    chunks = [read_chunks(path).to_pandas() for path in chunk_shards(tmp_path / "frames")]
    assert all(genomes[record] == genome for table in chunks for record, genome in table[["record", "genome"]].values)


def test_a_table_goes_first_and_what_prepare_writes_is_such_a_table(source, tmp_path):
    lines = ["record\tgenome\torganism\tlineage", "SEG1.1\tflu\tInfluenza A\tViruses; Riboviria", "SEG2\tflu\t\t"]
    (source / "genomes.tsv").write_text("\n".join(lines) + "\n")
    run(source, tmp_path / "frames", evidence="open")
    frames = table_of(tmp_path / "frames").drop_duplicates("record").set_index("record")
    assert frames.loc["SEG1.1", ["genome", "organism", "lineage"]].tolist() == [
        "flu",
        "Influenza A",
        "Viruses; Riboviria",
    ]
    assert frames.loc["SEG2.1", ["genome", "organism", "lineage"]].tolist() == ["flu", "a virus", ""]
    written = read_genome_table(tmp_path / "frames" / "genomes.tsv")
    assert {record: row.genome for record, row in written.items()} == frames["genome"].to_dict()
    (source / "genomes.tsv").write_text(lines[0] + "\nSEG1.1\tother\t\t\n")
    with pytest.raises(DataError, match=r"already made from genomes\.tsv="):
        run(source, tmp_path / "frames", evidence="open")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("record\torganism\nA\tB\n", "has no column genome"),
        ("", "has no column genome and no column record"),
        ("record\tgenome\nA\t\n", "line 2: a record and its genome are needed"),
        ("record\tgenome\nA\tB\nA\tC\n", "line 3: A occurs twice"),
        ("record\tgenome\n" + "A" * 200_000 + "\tB\n", "cannot be read as a table"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path, text, problem):
    (tmp_path / "genomes.tsv").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_genome_table(tmp_path / "genomes.tsv")
    with pytest.raises(UsageError, match="no such file"):
        read_genome_table(tmp_path / "other.tsv")


def test_frames_of_an_earlier_format_are_refused_with_the_command_that_makes_them_anew(source, tmp_path):
    run(source, tmp_path / "frames", evidence="open")
    path = tmp_path / "frames" / "manifest.json"
    path.write_text(path.read_text().replace('"format_version": 4', '"format_version": 3'))
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path / "frames", "frames")
    command = f"--source=DIR --balance=no --chunk-size=300 --evidence=open --out={tmp_path / 'frames'}"
    assert str(caught.value).endswith(f"delete {tmp_path / 'frames'} and run python -m entrypoints.prepare {command}")
