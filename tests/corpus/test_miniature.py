"""The shipped miniature, and the functions that cut and compare pieces of genomes."""

import csv
import gzip
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from Bio import SeqIO
from Bio.Seq import Seq

from examples.corpus.keys import gene_key, partition
from examples.genbank import CodingSequence
from examples.genomes.annotated import Annotated
from examples.genomes.build import METAPHLAN, cut_pieces
from examples.genomes.similarity import similar

GENOMES = Path(__file__).parents[2] / "examples" / "genomes"


@pytest.fixture(scope="module")
def shipped():
    """The group and the record, for each record."""
    found = []
    for path in sorted(GENOMES.glob("*.gbff.gz")):
        with gzip.open(path, "rt") as stream:
            found += [(path.name.split(".")[0], record) for record in SeqIO.parse(stream, "genbank")]
    return found


@pytest.fixture(scope="module")
def sources():
    with (GENOMES / "SOURCES.tsv").open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_it_is_small_and_has_many_genomes(sources):
    data = [path for path in GENOMES.iterdir() if path.suffix in (".gz", ".tsv", ".json")]
    assert sum(path.stat().st_size for path in data) <= 6_000_000
    genomes = Counter(group for group, _ in {(row["group"], row["genome"]) for row in sources})
    assert genomes["viral"] >= 300
    assert genomes.total() - genomes["viral"] >= 300
    assert all(genomes[group] >= 10 for group in ("archaea", "bacteria", "eukaryote"))
    assert len({row["accession"] for row in sources}) == len(sources)


def test_the_table_of_sources_describes_the_records(shipped, sources):
    described = {row["accession"]: (row["group"], f"Assembly:{row['genome']}", int(row["bases"])) for row in sources}
    assert described == {record.id: (group, record.dbxrefs[0], len(record)) for group, record in shipped}
    assert all(row["package"] and row["licence"] and row["organism"] for row in sources)


def test_genes_of_the_corpus_are_of_its_miniature_alone(sources):
    genes = [row["accession"] for row in sources if row["package"] == str(METAPHLAN)]
    keys = [gene_key(name.replace("GeneID.", "GeneID:") if "GeneID" in name else f"gi|1|ref|{name}") for name in genes]
    assert len(keys) > 1000
    assert {partition(key.key) for key in keys} == {"miniature"}


def test_proteins_are_those_of_their_genes(shipped):
    differing = Counter()
    for _, record in shipped:
        for feature in record.features:
            if feature.type == "CDS":
                dna = feature.extract(record.seq)
                protein = feature.qualifiers["translation"][0]
                read = str(Seq(dna).translate(table=int(feature.qualifiers["transl_table"][0]))).removesuffix("*")
                same = all(a == b or "X" in (a, b) for a, b in zip(protein[1:], read[1:], strict=False))
                differing[not same or len(protein) != len(read)] += 1  # data banks always write M first
    assert differing[False] > 4000
    assert differing[True] <= 1  # a fragment that starts within a codon


def test_genomes_have_dna_between_genes_and_introns_where_their_sources_do(shipped):
    spliced, between = defaultdict(int), defaultdict(int)
    for group, record in shipped:
        coding = [feature for feature in record.features if feature.type == "CDS"]
        spliced[group] += sum(len(feature.location.parts) > 1 for feature in coding)
        between[group] += len(record) - len({base for feature in coding for base in feature.location})
    assert all(spliced[group] for group in ("plant", "invertebrate", "vertebrate_mammalian"))
    assert all(between[group] > 1000 for group in ("viral", "bacteria", "archaea", "fungi", "plant", "invertebrate"))


def test_pieces_keep_the_genes_that_lie_in_them():
    sequence = "".join(random.Random(3).choices("ACGT", k=9000))
    genes = (
        CodingSequence(((100, 160),), True, "A"),
        CodingSequence(((500, 560), (600, 660)), False, "B"),
        CodingSequence(((2950, 3050),), True, "over the end of a third"),
        CodingSequence(((5500, 5800),), True, "C"),
    )
    record = Annotated("R.1", "genome", "plant", "organism", "lineage", sequence, genes, METAPHLAN)
    (whole,) = cut_pieces(record, 9000, random.Random(1))
    assert (whole.accession, whole.sequence, tuple(whole.coding)) == ("R.1", sequence, genes)
    found = {piece.accession for seed in range(20) for piece in cut_pieces(record, 1200, random.Random(seed))}
    assert found == {"R.1_1-1200", "R.1_201-1400", "R.1_5201-6000"}
    for piece in cut_pieces(record, 1200, random.Random(5)):
        start = int(piece.accession.split("_")[1].split("-")[0]) - 1
        assert piece.sequence == sequence[start : start + len(piece.sequence)]
        assert piece.coding
        for gene in piece.coding:
            original = next(other for other in genes if other.protein == gene.protein)
            assert gene.spliced(piece.sequence) == original.spliced(sequence)


@pytest.mark.e2e
def test_similar_is_90_percent_identity_over_half_of_either_gene():
    draw = random.Random(4)
    gene = "".join(draw.choices("ACGT", k=900))

    def mutated(dna, step):
        return "".join("CGTA"["ACGT".index(base)] if place % step == 3 else base for place, base in enumerate(dna))

    def random_dna(length):
        return "".join(draw.choices("ACGT", k=length))

    others = {
        "nineteen_of_twenty": mutated(gene, 20),
        "four_of_five": mutated(gene, 5),
        "most_of_it": random_dna(300) + gene[200:800] + random_dna(300),
        "a_third": random_dna(400) + gene[300:600] + random_dna(400),
        "a_fragment": gene[300:600],
        "nothing": random_dna(900),
    }
    found = {other for name, other in similar([("gene", gene)], others.items()) if name == "gene"}
    assert found == {"nineteen_of_twenty", "most_of_it", "a_fragment"}
