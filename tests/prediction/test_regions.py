"""Viral regions: optimal among all markings; coordinates, DNA and calls of a contig with a virus."""

from __future__ import annotations

import gzip
import io
import itertools
import random

import dnaio
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from virnuc.prediction import prediction
from virnuc.prediction.prediction import predict
from virnuc.prediction.regions import RegionRule, find_regions, mark

DRAW = np.random.default_rng(5)


def value_of(marked, evidence, cost):
    """Return the value of a marking: the evidence inside its regions minus the cost of each region."""
    regions = sum(1 for key, _ in itertools.groupby(marked) if key)
    return float(np.dot(marked, evidence)) - cost * regions


@pytest.mark.parametrize("cost", [0.0, 1.0, 3.0, 12.0])
def test_no_other_marking_has_a_higher_value(cost):
    for length in (1, 2, 9):
        evidence = DRAW.normal(0, 2, length)
        best = max(value_of(other, evidence, cost) for other in itertools.product((0, 1), repeat=length))
        assert value_of(mark(evidence, cost), evidence, cost) == pytest.approx(best)


def chunks(record, probabilities, size=500):
    starts = np.arange(len(probabilities)) * size
    return pd.DataFrame(
        {"record": record, "sequence": f"s{record}", "file": "a.fa", "start": starts, "end": starts + size}
    ).assign(probability=probabilities)


def test_a_region_has_its_ends_and_its_mean_log_odds():
    inside = [0.9, 0.95, 0.4, np.nan, 0.97, 0.9, 0.9, 0.95]
    table = pd.concat([chunks(1, [0.1] * 8), chunks(2, [0.2] * 4 + inside + [0.1] * 6)])
    found = find_regions(table, RegionRule(0.5, 8.0, 1000))
    assert found[["region", "start", "end", "length", "chunks"]].values.tolist() == [
        ["s2|2001-6000", 2001, 6000, 4000, 8]
    ]
    odds = [np.log(p / (1 - p)) for p in inside if p == p]
    assert found["probability"][0] == pytest.approx(expit(np.mean(odds)))
    assert found["evidence"][0] == pytest.approx(sum(odds))
    for stricter in (RegionRule(0.5, 16.0, 0), RegionRule(0.5, 8.0, 4001), RegionRule(0.95, 8.0, 0)):
        assert find_regions(table, stricter).empty


def test_without_a_cost_a_region_is_a_run_of_viral_chunks():
    viral = DRAW.random(300) > 0.5
    found = find_regions(chunks(1, np.where(viral, 0.6, 0.4)), RegionRule(0.5, 0.0, 0))
    edges = np.flatnonzero(np.diff(viral, prepend=False, append=False)).reshape(-1, 2)
    assert found[["start", "end"]].values.tolist() == [[a * 500 + 1, b * 500] for a, b in edges]


class KnownScorer:
    """Calls chunks without a T viral, with the certainty of a real scorer."""

    def __init__(self, scorer):
        self._scorer = scorer

    def __getattr__(self, name):
        return getattr(self._scorer, name)

    def score_frames(self, letters, batch_tokens):
        table, frames = self._scorer.score_frames(letters, batch_tokens)
        viral = np.array(["T" not in chunk for chunk in letters])
        table["probability"] = np.where(viral, 0.95, 0.1)
        return table, frames


@pytest.fixture(scope="module")
def contigs():
    letters = random.Random(8)
    host = lambda length: "".join(letters.choices("ACGT", k=length))  # noqa: E731
    virus = lambda length: "".join(letters.choices("ACG", k=length))  # noqa: E731
    return {"none": host(30_000), "inside": host(9000) + virus(12_000) + host(9000), "whole": virus(9000)}


@pytest.fixture(scope="module")
def out(scorer, contigs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("contigs")
    (directory / "a.fa").write_text("".join(f">{name}\n{dna}\n" for name, dna in contigs.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "CHUNKS_AT_ONCE", 16)  # a contig lies in several parts
        patch.setattr(prediction, "BATCHES_IN_PART", 2)
        predict([str(directory / "a.fa")], KnownScorer(scorer), "m", directory / "out")
    return directory / "out"


def test_each_sequence_is_called_and_regions_lie_where_the_virus_is(out):
    sequences = pd.read_csv(out / "sequences.tsv", sep="\t").set_index("sequence")
    assert sequences["call"].to_dict() == {"none": "no virus", "inside": "contains viral regions", "whole": "virus"}
    regions = pd.read_csv(out / "regions.tsv", sep="\t").set_index("sequence")
    assert regions.index.tolist() == ["inside", "whole"]
    assert abs(regions.loc["inside", "start"] - 9001) <= 300 and abs(regions.loc["inside", "end"] - 21_000) <= 300
    assert regions.loc["whole", ["start", "end"]].tolist() == [1, 9000]
    bed = pd.read_csv(out / "regions.bed", sep="\t", header=None)
    assert bed[0].tolist() == regions.index.tolist()
    assert (bed[1] + 1).tolist() == regions["start"].tolist() and bed[2].tolist() == regions["end"].tolist()
    assert sequences["viral_bases"].to_dict() == {"none": 0} | regions["length"].to_dict()


def test_the_fasta_has_the_viral_dna(out, contigs):
    region = pd.read_csv(out / "regions.tsv", sep="\t").set_index("sequence").loc["inside"]
    with dnaio.open(io.BytesIO(gzip.decompress((out / "viral.fna.gz").read_bytes())), fileformat="fasta") as reader:
        found = {record.name: record.sequence for record in reader}
    assert found == {
        f"inside|{region['start']}-{region['end']}": contigs["inside"][region["start"] - 1 : region["end"]],
        "whole": contigs["whole"],
    }
