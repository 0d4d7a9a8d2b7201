"""The demo's champion: its calls, its server, and doctor's view of it."""

import json
import re
from itertools import islice

import mlflow
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from tests.shared import PROJECT
from tests.shared.serving import load_scoring_model, post, records, serving
from virnuc.prediction.chunks import ANSWERED
from virnuc.prediction.companion import METHODS
from virnuc.sequences.chunking import chunk_starts
from virnuc.sequences.reading import read_records
from virnuc.splits.assignment import Split

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def demo(demo):
    """The demo with a store of its own; other tests change the original one."""
    return demo.with_copy("champion.db")


def test_predict_returns_every_chunk_of_test_genomes_once(demo):
    split = Split.open(demo.data / "test_set")
    unseen = set(split.table.iloc[split.rows["test"]]["genome"])
    fasta, expected = demo.directory / "reads.fa", set()
    with fasta.open("w") as stream:
        for group in ("viral", "bacteria", "archaea"):
            path = demo.directory / "examples" / "genomes" / f"{group}.1.genomic.gbff.gz"
            for genome in [genome for genome in read_records(path) if genome.genome.name in unseen][:4]:
                stream.write(f">{genome.accession}\n{genome.sequence}\n")
                chunks = len(chunk_starts(len(genome.sequence), 500))
                expected |= {f"{genome.accession}_chunk_{number}" for number in range(1, chunks + 1)}
    done = demo.run("predict", "--input", "reads.fa", "--out", "data/calls")
    assert done.returncode == 0, done.stderr
    calls = pd.read_csv(demo.directory / "data" / "calls" / "calls.tsv", sep="\t")
    assert sorted(calls["Sequence_ID"]) == sorted(expected)
    assert set(calls["status"]) <= {"scored", "no_open_frame", "ambiguous", "too_short"}
    mlflow.set_tracking_uri(demo.store)
    model = load_scoring_model("models:/virnuc@champion")
    first = next(read_records(fasta))
    scored = model.predict(pd.DataFrame({"sequence": [first.sequence], "id": [first.accession]}))
    sequences = pd.read_csv(demo.directory / "data" / "calls" / "sequences.tsv", sep="\t")
    assert scored["probability"][0] == pytest.approx(sequences["probability"][0], abs=1e-6)


def test_accuracy_over_all_chunks_is_that_of_predict(demo):
    chunks = Split.open(demo.data / "test_set").chunks("test")
    (demo.directory / "chunks.fa").write_text(
        "".join(f">{name}\n{dna}\n" for name, dna in zip(chunks["chunk_id"], chunks["nucleotide"], strict=True))
    )
    done = demo.run("predict", "--input", "chunks.fa", "--out", "data/chunk_calls")
    assert done.returncode == 0, done.stderr
    calls = pd.read_parquet(demo.directory / "data" / "chunk_calls" / "calls.parquet")
    assert calls["sequence"].tolist() == chunks["chunk_id"].tolist()
    right = (calls["Prediction"] == chunks["label"].map({1: "virus", 0: "others"})).to_numpy()
    stopped = (chunks["reason"] == "no_open_frame").to_numpy()
    assert (calls["status"] == "no_open_frame").to_numpy().tolist() == stopped.tolist()
    (logged,) = [
        demo.measured(run)
        for run in demo.runs("evaluate")
        if run.data.tags["virnuc.model"] == "models:/virnuc-esm2_tiny/1"
    ]
    coverage = {key.removeprefix("test/coverage/"): value for key, value in logged.items() if "/coverage/" in key}
    assert coverage["chunks_scored"] == len(chunks) == coverage["chunks"] - coverage["ambiguous_bases"]
    assert coverage["accuracy_of_all_chunks"] == pytest.approx(right.mean())
    assert coverage["accuracy_of_no_open_frame_chunks"] == pytest.approx(right[stopped].mean())
    assert coverage["roc_auc_of_all_chunks"] == pytest.approx(roc_auc_score(chunks["label"], calls["probability"]))
    measured = demo.trained("esm2_tiny").data
    card = demo.client.get_model_version_by_alias("virnuc", "champion").description
    for status in ANSWERED:
        method = measured.tags[f"virnuc.{status}_by"]
        losses, accuracy = (
            {name: measured.metrics[f"val/{status}/{figure}_{name}"] for name in METHODS}
            for figure in ("log_loss", "accuracy")
        )
        assert losses[method] <= 1.01 * min(losses.values())
        assert set(calls.loc[calls["status"] == status, "scored_by"]) == {method}
        assert all(f"{name} {value:.3f}" in card for name, value in accuracy.items())
    for name in ("accuracy_of_all_chunks", "roc_auc_of_all_chunks", "accuracy_of_uncovered_chunks"):
        assert f"{coverage[name]:.3f}" in card


@pytest.fixture(scope="module")
def served(demo):
    """The address of a server for the champion."""
    with serving("models:/virnuc@champion", demo.store, cwd=demo.directory) as address:
        yield address


def test_the_champion_over_http_answers_as_predict_does(demo, served):
    fasta = demo.directory / "served.fa"
    source = demo.directory / "examples" / "genomes" / "viral.1.genomic.gbff.gz"
    genomes = list(islice(read_records(source), 5))
    fasta.write_text("".join(f">{genome.accession}\n{genome.sequence}\n" for genome in genomes))
    done = demo.run("predict", "--input", "served.fa", "--out", "data/served")
    assert done.returncode == 0, done.stderr
    called = pd.read_parquet(demo.directory / "data" / "served" / "sequences.parquet")
    sequences = [genome.sequence for genome in genomes]
    status, answer = post(served, records(*sequences, None, "ACGTZ"))
    assert status == 200
    table = pd.DataFrame(answer["predictions"])
    assert table["status"].tolist() == [*called["status"], "invalid", "invalid"]
    assert table["probability"][:5].to_numpy(float) == pytest.approx(called["probability"].to_numpy(), abs=1e-6)
    assert table["label"][:5].tolist() == called["label"].tolist()
    for body, words in (
        ({"dataframe_records": [{"dna": "ACGT"}]}, "missing inputs"),
        (records(None), "sequence is null"),
        (records(""), "sequence is empty"),
        (records("MKLV*"), "is not an IUPAC base"),
        (records("A" * 10_000_001), "the limit is 10,000,000"),
    ):
        status, answer = post(served, body)
        assert status == 400 and words in answer


def test_the_page_on_serving_can_be_followed(demo, served):
    """The page's commands and program all give the same answer."""
    page = (PROJECT / "docs" / "operating.md").read_text().split("\n## Serving\n")[1].split("\n## ")[0]
    page = page.replace("http://127.0.0.1:5001", served.removesuffix("/invocations"))
    _, curl, batch = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    sequence = re.search(r'"sequence": "([ACGT]+)"', curl)[1]
    (demo.directory / "reads.csv").write_text(f"id,sequence\ncontig_1,{sequence}\n")
    asked = demo.shell(curl)
    (row,) = json.loads(asked.stdout.splitlines()[-1])["predictions"]
    assert (row["id"], row["status"], row["error"]) == ("contig_1", "scored", "")
    there = f'import os; os.environ["MLFLOW_TRACKING_URI"] = "{demo.store}"\n'
    told = 'print(*[answer["predictions"][0][name] for name in ("id", "probability")])'
    done = demo.python("-c", there + program + told)
    assert done.stdout.split()[-2:] == ["contig_1", str(row["probability"])], done.stderr
    done = demo.shell(f"export MLFLOW_TRACKING_URI={demo.store}\n{batch}")
    (scored,) = json.loads((demo.directory / "calls.json").read_text())["predictions"]
    same = row | {"label": scored["label"], "probability": pytest.approx(row["probability"], abs=1e-6)}
    assert scored == same, done.stderr  # the request has a threshold of its own


def test_doctor_finds_all_well(demo):
    done = demo.run("doctor")
    assert done.returncode == 0, done.stdout
    assert "PASS  champion scores" in done.stdout
