import pytest

from virnuc.errors import DataError, UsageError
from virnuc.sequences.preparing import prepare
from virnuc.sequences.reading import read_records
from virnuc.sequences.taxonomy import Taxonomy
from virnuc.settings import PrepareSettings

TAXA = {  # number: parent, whether GenBank's lineages leave it out, name
    1: (1, 0, "root"),
    10239: (1, 0, "Viruses"),
    439488: (10239, 1, "hidden viruses"),
    2731341: (439488, 0, "Duplodnaviria"),
    10699: (2731341, 0, "Siphoviridae"),
    10710: (10699, 0, "Lambda phage"),
    40: (41, 0, "in a ring"),
    41: (40, 0, "of two"),
}
RECORD = """LOCUS       {name}                 24 bp    DNA     linear   VRL 01-JAN-2020
DEFINITION  .
ACCESSION   {name}
VERSION     {name}
SOURCE      phage
  ORGANISM  phage
            {lineage}
FEATURES             Location/Qualifiers
     source          1..24
                     /organism="phage"
                     /db_xref="BOLD:1"
                     /db_xref="taxon:{taxon}"
     CDS             1..24
                     /translation="MAMAMAMA"
                     /db_xref="taxon:9606"
ORIGIN
        1 atggcaatgg caatggcaat ggca
//
"""


@pytest.fixture
def dump(tmp_path):
    directory = tmp_path / "taxdump"
    directory.mkdir()
    nodes = [
        "\t|\t".join([str(taxon), str(parent), "rank", *[""] * 7, str(hidden), "0", ""]) + "\t|\n"
        for taxon, (parent, hidden, _) in TAXA.items()
    ]
    names = [
        f"{taxon}\t|\t{name}{end}\t|\t\t|\t{kind}\t|\n"
        for taxon, (*_, name) in TAXA.items()
        for end, kind in ((' "x"', "synonym"), ("", "scientific name"))
    ]
    (directory / "nodes.dmp").write_text("".join(nodes))
    (directory / "names.dmp").write_text("".join(names))
    return directory


def test_a_lineage_is_what_genbank_would_give(dump):
    taxonomy = Taxonomy(dump)
    assert taxonomy.lineage(10710) == "Viruses; Duplodnaviria; Siphoviridae"
    assert taxonomy.lineage(10239) == taxonomy.lineage(1) == taxonomy.lineage(0) == ""
    assert taxonomy.lineage(99) == taxonomy.lineage(10**9) == ""
    assert taxonomy.lineage(40) == "in a ring; of two" or taxonomy.lineage(40) == "of two; in a ring"


def test_records_without_a_lineage_get_that_of_their_taxon(dump, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    records = [("NONE1", "", 10710), ("OWN1", "Viruses; its own.", 10710), ("UNKNOWN1", "", 99)]
    texts = [RECORD.format(name=name, lineage=lineage, taxon=taxon) for name, lineage, taxon in records]
    (source / "viral.1.gbff").write_text("".join(texts))
    (source / "plant.1.gbff").write_text(RECORD.format(name="PLANT1", lineage="", taxon=40).replace("ggca\n", "ggcc\n"))
    found = {record.accession: record for record in read_records(source / "viral.1.gbff", taxonomy=Taxonomy(dump))}
    assert [found[name].taxon for name, *_ in records] == [10710, 10710, 99]
    expected = {"NONE1": "Viruses; Duplodnaviria; Siphoviridae", "OWN1": "Viruses; its own", "UNKNOWN1": ""}
    assert {name: record.lineage for name, record in found.items()} == expected
    settings = PrepareSettings(source=str(source), taxonomy=str(dump), out=str(tmp_path / "frames"))
    manifest = prepare(settings)
    assert {"nodes.dmp", "names.dmp"} < manifest.inputs.keys()
    assert "Viruses; Duplodnaviria; Siphoviridae" in (tmp_path / "frames" / "genomes.tsv").read_text()


@pytest.mark.parametrize("text", ["", "1\t|\t1\t|\n", "a\t|\tb\t|\n", "\x00"])
def test_what_is_no_taxonomy_is_refused(dump, text):
    (dump / "nodes.dmp").write_text(text)
    with pytest.raises(DataError, match=r"not NCBI's nodes\.dmp and names\.dmp"):
        Taxonomy(dump)
    (dump / "nodes.dmp").unlink()
    with pytest.raises(UsageError, match=r"nodes\.dmp: no such file; --taxonomy needs"):
        Taxonomy(dump)
