"""The corpus, built from a small package of synthetic genes."""

import gzip
import hashlib
import io
import itertools
import json
import random
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from Bio import SeqIO
from Bio.Seq import Seq

from examples.corpus.build import MARKERS, build
from examples.corpus.domains import Tiara
from examples.corpus.genomes import GenomeFinder
from examples.corpus.keys import gene_key, partition
from examples.packages import Package, checked, deb_member
from virnuc.errors import DataError
from virnuc.sequences.preparing import prepare
from virnuc.settings import PrepareSettings


def gene(seed, codons=130, share_of_gc=0.5):
    """Return a gene of sense codons, followed by a stop codon."""
    draw = random.Random(seed)
    found = []
    while len(found) < codons:
        codon = "".join(draw.choices("ACGT", [1 - share_of_gc, share_of_gc, share_of_gc, 1 - share_of_gc], k=3))
        found += [codon] if codon not in ("TAA", "TAG", "TGA") else []
    return "".join(found) + "TAA"


def other_key(part, template):
    """Return the first number whose key belongs to `part`."""
    return next(number for number in itertools.count(1) if partition(template.format(number)) == part)


def key_part(thousand):
    """Return the part of the viral genes whose numbers begin with `thousand`."""
    return partition(f"GeneID:{thousand}")


@pytest.fixture(scope="module")
def genes():
    archaeon, bacterium = (f"NC_{number:06d}" for number in (other_key("pretraining", "NC_{:06d}"), 700_000))
    while partition(bacterium) != "pretraining":
        bacterium = f"NC_{int(bacterium[3:]) + 1:06d}"
    fungus = 10_000 * other_key("pretraining", "XM_{}")
    return [
        *((f"gi|1|ref|{archaeon}.1|:{n}-{n + 393}", gene(n, share_of_gc=0.8)) for n in (1, 1001)),
        (f"gi|2|ref|{bacterium}.1|:c800-408", gene(5, share_of_gc=0.3)),
        ("lcl|another form", gene(6)),
        *((f"gi|3|ref|XM_{fungus + n:09d}.1|:1-393", gene(n + 100)) for n in (10, 20)),
        ("GeneID:7001", gene(11)),  # pretraining, two genomes
        ("GeneID:7003", gene(12)),
        ("GeneID:7002", gene(13)),
        ("GeneID:7500", gene(14)),
        ("GeneID:7501", "TAA" + gene(15)),  # a stop codon in frame
        ("GeneID:7502", "AC!" + gene(16)),
        ("GeneID:23001", gene(17)),  # miniature
        ("GeneID:4001", gene(18)),  # held out
        ("GeneID:51001", gene(19)),  # reserved
        ("GeneID:50990", gene(20)),  # of the same genome
    ]


@pytest.fixture(scope="module")
def package(genes, tmp_path_factory):
    """A .deb in dpkg's format: an ar archive whose data.tar.xz contains the markers and other files."""
    fasta = "".join(f">{header}\n{dna[:60]}\n{dna[60:]}\n" for header, dna in genes).encode()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in (("./usr/share/doc/copyright", b"Expat"), (f"./{MARKERS}", fasta)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    path = tmp_path_factory.mktemp("package") / "small.deb"
    members = (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data.getvalue()))
    with path.open("wb") as stream:
        stream.write(b"!<arch>\n")
        for name, content in members:
            stream.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content)
            stream.write(b"\n" * (len(content) % 2))
    return path


def much_gc(sequences):
    """A predictor of domains that is right about the genes above."""
    return np.array([sum(map(sequence.count, "GC")) / len(sequence) for sequence in sequences])


@pytest.fixture(scope="module")
def corpus(package, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    build(package, much_gc, out)
    return out


def records(corpus):
    for path in sorted(corpus.glob("*/*.gbff.gz")):
        with gzip.open(path, "rt") as stream:
            for record in SeqIO.parse(stream, "genbank"):
                yield path.parent.name, path.name.split(".")[0], record


def test_each_gene_is_unchanged_in_the_files_of_its_part_and_group(corpus, genes):
    expected = dict.fromkeys((0, 1), ("pretraining", "archaea")) | {2: ("pretraining", "bacteria")}
    expected |= dict.fromkeys((4, 5), ("pretraining", "eukaryote"))
    expected |= dict.fromkeys((6, 7, 8, 9), ("pretraining", "viral"))
    expected |= {12: ("miniature", "viral"), 13: ("held_out", "viral")}
    found = {str(record.seq): (part, group) for part, group, record in records(corpus)}
    assert found == {genes[place][1]: where for place, where in expected.items()}


def test_reserved_genomes_are_left_out_with_their_neighbours(corpus, genes):
    written = {str(record.seq) for _, _, record in records(corpus)}
    assert written.isdisjoint(dna for header, dna in genes if header.startswith("GeneID:5"))


@pytest.mark.parametrize("other", ["held_out", "miniature"])
def test_a_genome_with_a_key_of_pretraining_is_never_tested_on(other):
    thousand = next(n for n in itertools.count(1) if {key_part(n), key_part(n + 1)} == {"pretraining", other})
    finder, border = GenomeFinder(), 1000 * (thousand + 1)
    for line, number in enumerate((border - 1, border)):
        finder.add(gene_key(f"GeneID:{number}"), line)
    assert [(genome.part, len(genome.keys)) for genome in finder.finish()] == [("pretraining", 2)]


def test_every_gene_is_counted_once_by_its_reason(corpus, genes):
    counts = json.loads((corpus / "counts.json").read_text())
    assert counts["genes_in"] == len(genes)
    assert counts["genes_dropped"] == {
        "genome_with_a_reserved_key": 1,
        "header_of_another_form": 1,
        "letters_that_are_no_bases": 1,
        "no_stop_free_frame": 1,
        "reserved_key": 1,
    }
    written = [row["genes"] for groups in counts["out"].values() for row in groups.values()]
    assert sum(written) == counts["genes_out"] == len(genes) - 5


def test_genomes_end_where_numbers_jump_or_the_file_leaves_them(corpus):
    genomes = {}
    for _, _, record in records(corpus):
        genomes.setdefault(record.dbxrefs[0], set()).add(record.id)
    assert genomes["Assembly:GeneID.7001"] == {"GeneID.7001", "GeneID.7002", "GeneID.7003"}
    assert genomes["Assembly:GeneID.7500"] == {"GeneID.7500"}
    lines = (corpus / "sources.tsv").read_text().splitlines()
    assert {line.split("\t")[0] for line in lines[1:]} == {name.removeprefix("Assembly:") for name in genomes}


def test_the_coding_sequence_is_the_translation_of_the_gene(corpus):
    for _, _, record in records(corpus):
        assert "date" not in record.annotations
        (coding,) = (feature for feature in record.features if feature.type == "CDS")
        assert coding.qualifiers["translation"] == [str(Seq(record.seq).translate(table=1)).removesuffix("*")]
        assert str(coding.extract(record).seq.translate(table=1)) == coding.qualifiers["translation"][0]


def test_building_again_gives_the_same_bytes(corpus, package, tmp_path):
    build(package, much_gc, tmp_path)
    digests = [
        {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.*")}
        for out in (corpus, tmp_path)
    ]
    assert digests[0] == digests[1]


def test_another_file_than_the_package_named_is_refused(package):
    wanted = Package("debian", "small", "1", "small.deb", "0" * 64, "Expat")
    with pytest.raises(DataError, match="SHA-256"):
        checked(wanted, package)
    with pytest.raises(DataError, match="holds no"), deb_member(package, "usr/share/doc/another"):
        pass


def test_the_network_of_tiara_weights_kmers_and_averages_pieces(tmp_path):
    draw = np.random.default_rng(1)
    words = draw.random(4096, dtype=np.float32)
    shapes = {"0": (8, 4096), "3": (6, 8), "6": (5, 6)}
    layers = {f"{n}.weight": draw.normal(size=shape).astype(np.float32) for n, shape in shapes.items()}
    layers |= {f"{n}.bias": draw.normal(size=shape[0]).astype(np.float32) for n, shape in shapes.items()}
    wheel = tmp_path / "tiara.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        weights, array = io.BytesIO(), io.BytesIO()
        torch.save({name: torch.from_numpy(value) for name, value in layers.items()}, weights)
        np.save(array, words)
        archive.writestr("tiara/models/nnet-models/first_nnet_kmer_6.pkl", weights.getvalue())
        archive.writestr("tiara/models/tfidf-models/k6-first-stage/model.npy", array.getvalue())
    sequence = "".join(random.Random(2).choices("ACGT", k=11_000)) + "N"
    names = ["".join(letters) for letters in itertools.product("ACGT", repeat=6)]

    def naive(piece):
        counts = {name: 0 for name in names}
        for start in range(len(piece) - 5):
            if piece[start : start + 6] in counts:
                counts[piece[start : start + 6]] += 1
        hidden = np.array([counts[name] for name in names]) * words.astype(np.float64)
        hidden /= np.sqrt((hidden**2).sum())
        for layer in "036":
            hidden = layers[f"{layer}.weight"] @ hidden + layers[f"{layer}.bias"]
            hidden = hidden if layer == "6" else np.maximum(hidden, 0)
        return np.exp(hidden) / np.exp(hidden).sum()

    expected = [(naive(sequence[:5000]) + naive(sequence[5000:10_000])) / 2, naive(sequence[-300:])]
    np.testing.assert_allclose(Tiara(wheel).probabilities([sequence, sequence[-300:]]), expected, rtol=1e-4)


def test_prepare_reads_the_corpus(corpus, tmp_path):
    settings = PrepareSettings(source=str(corpus / "pretraining"), out=str(tmp_path / "frames"), chunk_size=300)
    manifest = prepare(settings)
    assert manifest.counts["in"]["chunks"] == 2 * 9  # two of each gene of 393 bp
    assert manifest.counts["out"]["frames"] == 9  # the second chunk of each ends with the stop codon
