"""How the shipped encoders were pretrained: which genes they may learn from, and that a stopped run goes on exactly."""

import dataclasses
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from Bio.Seq import Seq

from examples.corpus.keys import PRETRAINING, gene_key, partition
from examples.encoders import genes as reading
from examples.encoders import pretrain
from examples.encoders.crops import Crops, Sampling, dna
from examples.encoders.genes import Genes, related
from examples.encoders.model import Shape

CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
SMALL = Sampling(lengths=((0, 20, 30), (4, 40, 50)), per_class=(3, 4, 1))


def genes(count, seed, length=60):
    """Return stop-free random genes, a third of each class."""
    draw = np.random.default_rng(seed)
    allowed = [number for number, codon in enumerate(CODONS) if codon not in ("TAA", "TAG", "TGA")]
    codons = draw.choice(allowed, count * length).astype(np.uint8)
    starts = np.arange(count + 1) * length
    return Genes(codons, starts, (np.arange(count) % 3).astype(np.uint8), np.array([f"NC_{n}" for n in range(count)]))


def header(part, name="GeneID:{}", step=1000):
    """Return the first header of a viral gene whose key belongs to `part`."""
    return next(h for h in (name.format(n) for n in itertools.count(step, step)) if partition(gene_key(h).key) == part)


@pytest.mark.parametrize("name", ["esm2_tiny", "esm2_tiny_deep"])
def test_the_shipped_encoders_learned_from_the_pretraining_part_alone(name):
    record = json.loads((Path("examples/encoders") / name / "training.json").read_text())
    assert len(record["genomes"]) > 5000
    assert {partition(key) for key in record["genomes"]} == {PRETRAINING}
    assert sum(record["proteins_seen"].values()) >= 500_000


def test_genes_of_other_parts_and_their_relatives_are_left_out(tmp_path, monkeypatch):
    draw = random.Random(1)
    kept, held_out = (
        "".join(draw.choice([c for c in CODONS if c not in ("TAA", "TAG", "TGA")]) for _ in range(80)) for _ in range(2)
    )
    relative = held_out[:150] + kept[150:]
    package = [
        (header("pretraining"), kept + "TAA"),
        (header("pretraining"), relative),
        (header("pretraining"), "TAA" + kept),
        (header("pretraining"), kept[:90]),
        (header("held_out"), held_out),
        (header("miniature"), kept[::-1].replace("TAA", "AAA").replace("TAG", "AAG").replace("TGA", "AGA")[:240]),
        (header("reserved"), ""),
        ("lcl|other", ""),
    ]
    monkeypatch.setattr(reading, "read_genes", lambda deb: ((n, h, gene_key(h), s) for n, (h, s) in enumerate(package)))
    counts = reading.build(tmp_path / "any.deb", tmp_path)
    train, apart = (Genes.load(tmp_path / f"{name}.npz") for name in ("train", "held_out"))
    assert dna(train.codons[None]) == [kept]
    assert dna(apart.codons[None]) == [held_out]
    assert counts["left out"]["relatives"] == 1
    assert counts["left out"]["short"] == counts["left out"]["reserved"] == 1
    assert counts["left out"]["header of another form"] == 1


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
