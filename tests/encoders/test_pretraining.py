"""The pretraining of the shipped encoders: the genes they may learn from, and resuming with the same bits."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from Bio.Seq import Seq

from examples.corpus.keys import HELD_OUT, MINIATURE, PRETRAINING
from examples.encoders import genes as reading
from examples.encoders import hexamers, pretrain
from examples.encoders.crops import Crops, Sampling, dna
from examples.encoders.genes import Genes, related
from examples.encoders.model import Shape
from examples.genbank import CodingSequence, Entry, GroupWriter

CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
SMALL = Sampling(lengths=((0, 20, 30), (4, 40, 50)), per_class=(3, 4, 1))


def genes(count, seed, length=60):
    """Return random genes without stop codons, a third of each class."""
    draw = np.random.default_rng(seed)
    allowed = [number for number, codon in enumerate(CODONS) if codon not in ("TAA", "TAG", "TGA")]
    codons = draw.choice(allowed, count * length).astype(np.uint8)
    starts = np.arange(count + 1) * length
    return Genes(codons, starts, (np.arange(count) % 3).astype(np.uint8), np.array([f"NC_{n}" for n in range(count)]))


def entry(accession, genome, dna, table=11):
    """Return a gene as a record of the corpus."""
    protein = str(Seq(dna).translate(table)).removesuffix("*")
    coding = (CodingSequence(((0, 3 * len(protein)),), True, protein, table),)
    return Entry(accession, genome, f"unidentified virus {genome}", "Viruses", dna, coding, "a gene")


@pytest.mark.parametrize("name", ["esm2_tiny", "esm2_tiny_deep", "hexamer_tiny"])
def test_the_shipped_encoders_learned_from_no_genome_of_the_miniature(name):
    record = json.loads((Path("examples/encoders") / name / "training.json").read_text())
    sources = pd.read_csv("examples/genomes/SOURCES.tsv", sep="\t")
    assert len(record["genomes"]) > 5000
    assert not set(record["genomes"]) & {*sources["genome"], *sources["accession"]}


def test_genes_of_other_parts_and_their_relatives_are_left_out(tmp_path):
    draw = random.Random(1)
    kept, held_out, miniature = (
        "".join(draw.choice([c for c in CODONS if c not in ("TAA", "TAG", "TGA")]) for _ in range(80)) for _ in range(3)
    )
    corpus = {
        PRETRAINING: [
            entry("a", "A", kept + "TAA"),
            entry("b", "B", held_out[:150] + kept[150:]),
            entry("c", "C", kept[:90]),
        ],
        HELD_OUT: [entry("d", "D", held_out)],
        MINIATURE: [entry("e", "E", miniature)],
    }
    for part, entries in corpus.items():
        with GroupWriter(tmp_path / part, "viral", level=1) as writer:
            for one in entries:
                writer.add(one)
    counts = reading.build(tmp_path, tmp_path)
    train, apart = (Genes.load(tmp_path / f"{name}.npz") for name in ("train", "held_out"))
    assert dna(train.codons[None]) == [kept]
    assert train.genomes.tolist() == ["A"]
    assert dna(apart.codons[None]) == [held_out]
    assert counts["left out"] == {"short": {PRETRAINING: 1, HELD_OUT: 0, MINIATURE: 0}, "relatives": 1}


def test_relatives_share_words_of_their_proteins():
    some, others = genes(30, seed=1), genes(30, seed=2)
    changed = dataclasses.replace(some, codons=some.codons.copy())
    changed.codons[::40] = 0  # two residues of 60
    assert not related(some, others).any()
    assert related(changed, some).all()


def test_crops_are_pieces_of_their_genes_and_each_gene_comes_once_before_one_comes_again():
    source = genes(60, seed=3)
    crops, whole = Crops(source, SMALL, seed=5), dna(source.codons.reshape(60, 60))
    proteins = [str(Seq(text).translate()) for text in whole]
    seen = {0: [], 1: [], 2: []}
    for step in range(10):
        batch, again = crops.batch(step), Crops(source, SMALL, seed=5).batch(step)
        assert all(torch.equal(getattr(batch, f.name), getattr(again, f.name)) for f in dataclasses.fields(batch))
        assert (20 if step < 4 else 40) <= batch.tokens.shape[1] - 2 <= (30 if step < 4 else 50)
        changed = batch.tokens != batch.corrupted
        assert not (changed & ~batch.hidden).any()
        for tokens, number in zip(batch.tokens, batch.classes.tolist(), strict=True):
            crop = "".join(pretrain.ESM_VOCABULARY[token] for token in tokens[1:-1].tolist())
            (row,) = [row for row, protein in enumerate(proteins) if crop in protein]
            seen[number].append(row)
    for number, rows in seen.items():
        assert len(set(rows[:20])) == min(len(rows), 20)
        assert set(rows) <= set(range(number, 60, 3))


def test_a_stopped_run_goes_on_exactly_and_a_grown_encoder_begins_as_the_one_it_grows_from(tmp_path):
    recipe = pretrain.Recipe(Shape(16, 1, 2), steps=6, warmup=2, sampling=SMALL)
    learned, held_out = genes(60, seed=6), genes(120, seed=7, length=100)

    def run(directory, recipe=recipe, name="start"):
        directory.mkdir(exist_ok=True)
        return pretrain.Run(name, recipe, learned, held_out, directory)

    undisturbed = run(tmp_path / "a")
    undisturbed.finish()
    stopped = run(tmp_path / "b")
    for _ in range(4):
        stopped.advance()
    stopped.save()
    goes_on = run(tmp_path / "b")
    goes_on.finish()
    for key, value in undisturbed.net.state_dict().items():
        assert torch.equal(value, goes_on.net.state_dict()[key]), key

    grown = run(tmp_path / "a", dataclasses.replace(recipe, shape=Shape(16, 3, 2), grows_from="start"), "deep")
    tokens = grown.watched[0].tokens
    torch.testing.assert_close(grown.net.esm(tokens), undisturbed.net.esm(tokens))
    grown.finish()
    assert not torch.allclose(grown.net.esm(tokens), undisturbed.net.esm(tokens), atol=1e-3)
    pretrain.write_checkpoint(grown.net.esm, tmp_path / "written")
    pretrain.check_loader(grown, tmp_path / "written")


def test_a_stopped_run_of_the_hexamer_encoder_goes_on_exactly_and_virnuc_loads_what_it_writes(tmp_path):
    recipe = hexamers.Recipe(8, 1, 12, 8, steps=6, warmup=2, per_class=(4, 3, 1), lengths=(60, 120), anywhere=0.5)
    learned, held_out = genes(60, seed=6), genes(60, seed=7)
    directories = [tmp_path / name for name in ("a", "b")]
    for directory in directories:
        directory.mkdir()
        learned.save(directory / "train.npz")
        held_out.save(directory / "held_out.npz")
        (directory / "genes.json").write_text("{}")
    undisturbed = hexamers.Run(recipe, learned, held_out, directories[0])
    undisturbed.finish()
    stopped = hexamers.Run(recipe, learned, held_out, directories[1])
    for _ in range(4):
        stopped.advance()
    stopped.save()
    goes_on = hexamers.Run(recipe, learned, held_out, directories[1])
    goes_on.finish()
    for key, value in undisturbed.net.state_dict().items():
        assert torch.equal(value, goes_on.net.state_dict()[key]), key
    hexamers.write(goes_on, learned, directories[1], tmp_path / "written")
    hexamers.check_loader(goes_on, tmp_path / "written")


def test_crops_of_hexamers_are_pieces_of_genes_in_frame_or_anywhere_on_either_strand():
    source = genes(12, seed=8)
    whole = dna(source.codons.reshape(12, 60))
    crops = hexamers.Crops(source, (90,))
    for anywhere in (0.0, 1.0):
        words, classes = crops.draw(np.random.default_rng(3), 90, (20, 20, 20), anywhere, mutated=0.0)
        found = set()
        for row, number in zip(words.tolist(), classes.tolist(), strict=True):
            first = "".join("ACGT"[row[0] // 4**power % 4] for power in range(5, -1, -1))
            crop = first + "".join("ACGT"[word % 4] for word in row[1:])
            assert [word // 4096 for word in row] == [place % 3 for place in range(85)]
            places = [
                (strand, gene.find(piece) % 3)
                for gene in whole[number::3]
                for strand, piece in ((1, crop), (-1, str(Seq(crop).reverse_complement())))
                if piece in gene
            ]
            assert len(places) == 1
            found.update(places)
        assert found == ({(1, 0)} if not anywhere else {(strand, phase) for strand in (1, -1) for phase in range(3)})
