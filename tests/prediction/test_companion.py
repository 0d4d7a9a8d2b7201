"""Chunks with and without an open frame are scored by the method that validation chose, as computed by hand."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from virnuc.encoders import load_encoder
from virnuc.errors import DataError, DimensionError, IncompatibleCheckpointError
from virnuc.evaluation.calibration import fit_temperature
from virnuc.prediction.choosing import CompanionSource, add_companion, choose_methods, sample_chunks, score_chunks
from virnuc.prediction.chunks import ANSWERED, cut
from virnuc.prediction.companion import METHODS, Companion
from virnuc.prediction.prediction import predict
from virnuc.prediction.scorer import check_probe, load_scorer, read_choices, save_scorer
from virnuc.prediction.sequences import score_sequences
from virnuc.sequences.translation import reverse_complement

DRAW = random.Random(3)
STATUSES = ("scored", "no_open_frame", "ambiguous", "too_short")


def drawn(count, status):
    """Return random chunks of one status."""
    found = []
    while len(found) < count:
        chunk = "".join(DRAW.choices("ACGT", weights=[3, 1, 1, 3] if status == "no_open_frame" else None, k=120))
        if cut([chunk])[0] == [status]:
            found.append(chunk)
    return found


STOPPED = drawn(40, "no_open_frame")
OPEN = drawn(24, "scored")
MIXED = [
    *STOPPED[:6],
    *drawn(3, "scored"),
    "ACGT",
    "N" * 120,
    STOPPED[7][:60] + "NNN" + STOPPED[7][63:],
    *STOPPED[8:10],
]


@pytest.fixture
def by_method(scorer, companion_checkpoint):
    """The scorer with its companion, which uses one method for chunks of any status."""
    companion = Companion(companion_checkpoint.build(), temperature=1.7)
    return {method: replace(scorer, companion=companion, methods=dict.fromkeys(ANSWERED, method)) for method in METHODS}


def by_hand(chunk, checkpoint, temperature):
    """Compute both probabilities by definition: margins of both strands, their mean weighted by squares, softmax."""
    encoder, model = load_encoder("tetranucleotide"), checkpoint.build()
    with torch.inference_mode():
        logits = [model(encoder.embed([strand]))[0].double().numpy() for strand in (chunk, reverse_complement(chunk))]
    margins = np.diff(logits, axis=1)[:, 0]
    viral = 1 / (1 + np.exp(-np.average(margins, weights=margins**2) / temperature))
    return np.array([1 - viral, viral])


def test_every_method_scores_both_kinds_of_chunks_as_by_hand(scorer, by_method, companion_checkpoint):
    alone = scorer.score(MIXED)
    tables = {method: own.score(MIXED) for method, own in by_method.items()}
    scored = alone["status"].isin(ANSWERED)
    assert (alone["status"] == "no_open_frame").sum() == 9 and set(alone["status"]) == set(STATUSES)
    for method, table in tables.items():
        assert table["status"].tolist() == alone["status"].tolist()
        pd.testing.assert_frame_equal(table[~scored], alone[~scored])
        assert set(table.loc[scored, "scored_by"]) == {method}
        assert set(table.loc[~scored, "scored_by"]) == {""}
        assert ((table["probability"] >= 0.5) == (table["score2"] >= table["score1"]))[scored].all()
    pd.testing.assert_frame_equal(tables["frames"], alone)
    for number in np.flatnonzero(scored):
        own = by_hand(MIXED[number], companion_checkpoint, 1.7)
        frames = alone.loc[number, ["score1", "score2"]].to_numpy(float)
        for method, wanted in (("companion", own), ("mean", (own + frames) / 2)):
            assert tables[method].loc[number, ["score1", "score2"]].to_numpy(float) == pytest.approx(wanted, abs=1e-6)
            lead = wanted[1] - wanted[0]
            assert tables[method]["probability"][number] == pytest.approx(0.5 + lead / 2, abs=1e-6)
    stopped = alone["status"] == "no_open_frame"
    assert tables["companion"].loc[stopped, "frame"].eq("").all()
    assert tables["companion"].loc[stopped, "frames"].eq(0).all()
    assert tables["companion"].loc[~stopped, "frame"].tolist() == alone.loc[~stopped, "frame"].tolist()
    assert tables["mean"].loc[scored, "frame"].tolist() == alone.loc[scored, "frame"].tolist()


def test_each_kind_of_chunk_has_its_own_method(by_method):
    methods = {"scored": "mean", "no_open_frame": "companion"}
    table = replace(by_method["mean"], methods=methods).score(MIXED)
    for status, method in methods.items():
        own = table["status"] == status
        pd.testing.assert_frame_equal(table[own], by_method[method].score(MIXED)[own])


def test_the_strand_that_was_read_does_not_matter_to_the_companion(by_method):
    forward = by_method["companion"].score(STOPPED)["probability"]
    backward = by_method["companion"].score([reverse_complement(chunk) for chunk in STOPPED])["probability"]
    assert forward.to_numpy() == pytest.approx(backward.to_numpy(), abs=1e-6)


def test_predict_and_the_answer_to_a_request_agree_and_say_who_scored(by_method, tmp_path):
    sequences = ["".join(STOPPED[:5]), MIXED[6] * 3, STOPPED[5]]
    (tmp_path / "a.fa").write_text("".join(f">s{n}\n{sequence}\n" for n, sequence in enumerate(sequences)))
    methods = {"scored": "frames", "no_open_frame": "companion"}
    scorer = replace(by_method["companion"], methods=methods, chunk_size=120)
    predict([str(tmp_path / "a.fa")], scorer, "m", tmp_path / "out")
    calls = pd.read_csv(tmp_path / "out" / "calls.tsv", sep="\t", keep_default_na=False)
    assert calls["scored_by"].tolist() == [methods[status] for status in calls["status"]]
    assert set(calls["scored_by"]) == {"frames", "companion"}
    summary, direct = pd.read_parquet(tmp_path / "out" / "sequences.parquet"), score_sequences(scorer, sequences)
    assert summary["probability"].to_numpy() == pytest.approx(direct["probability"].to_numpy(), abs=1e-9)
    with pytest.raises(DataError, match="methods="):
        predict([str(tmp_path / "a.fa")], replace(by_method["companion"], chunk_size=120), "m", tmp_path / "out")


def chunks_called(scorer):
    """Return chunks of 16 genomes with and without an open frame, labelled by `scorer`."""
    chunks = [*STOPPED, *OPEN]
    table = pd.DataFrame({"chunk_id": [f"g{n % 16}_chunk_{n}" for n in range(len(chunks))], "nucleotide": chunks})
    table["genome"], table["reason"] = [f"g{n % 16}" for n in range(len(chunks))], "no_open_frame"
    table["label"] = (scorer.score(chunks)["probability"] >= 0.5).astype("int8")
    return table


@pytest.fixture
def copied(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "scorer")


@pytest.mark.parametrize("methods", [("companion", "frames"), ("frames", "companion"), ("frames", "frames")])
def test_the_simplest_method_with_about_the_lowest_log_loss_is_chosen_and_kept(
    by_method, copied, companion_checkpoint, methods
):
    wanted = dict(zip(ANSWERED, methods, strict=True))
    source = CompanionSource(
        companion_checkpoint, "models:/virnuc-x_dna/3", chunks_called(replace(by_method["mean"], methods=wanted))
    )
    choices = add_companion(copied, source, seed=1)
    assert {status: choice.method for status, choice in choices.items()} == wanted
    for status, choice in choices.items():
        other = "frames" if choice.method == "companion" else "companion"
        assert choice.accuracy[choice.method] == choice.roc_auc[choice.method] == 1 > choice.accuracy[other]
        near = [method for method, loss in choice.log_loss.items() if loss <= 1.01 * min(choice.log_loss.values())]
        assert choice.method == next(method for method in ("frames", "companion", "mean") if method in near)
        assert 0 < choice.viral < choice.chunks == {"scored": 24, "no_open_frame": 40}[status]
        assert choice.genomes == 16
    loaded, config = load_scorer(copied), json.loads((copied / "scorer.json").read_text())
    again = score_chunks(loaded, source.chunks)
    assert ((again["probability"] >= 0.5) == (again["label"] == 1)).all()
    assert again["scored_by"].tolist() == [wanted[status] for status in again["status"]]
    assert read_choices(config) == choices
    needed = "companion" in methods
    assert (copied / "companion.safetensors").exists() == needed == (config["companion"] is not None)
    assert check_probe(loaded, copied) == 0
    if needed:
        assert config["companion"]["origin"] == "models:/virnuc-x_dna/3"
        stopped = config["companion"]["probe"]["sequence"]
        assert loaded.score([stopped])["scored_by"].tolist() == [wanted["no_open_frame"]]


def test_a_chunk_is_judged_by_the_calibration_of_the_other_half(by_method, scorer, companion_checkpoint):
    chunks = chunks_called(by_method["companion"])
    half = np.arange(len(chunks)) % 2 == 1
    chosen, choices = choose_methods(scorer, companion_checkpoint, chunks, half)
    logits = Companion(companion_checkpoint.build()).logits(
        scorer.dna_encoder, chunks["nucleotide"].tolist(), 10_000, "cpu"
    )
    margins, labels = logits[:, 1] - logits[:, 0], chunks["label"].to_numpy()
    frames, mean = scorer.score(chunks["nucleotide"])["probability"].to_numpy(), np.zeros(len(chunks))
    for own in (half, ~half):
        alone = 1 / (1 + np.exp(-margins[own] / fit_temperature(labels[~own], margins[~own])))
        mean[own] = (frames[own] + alone) / 2
    right, of_label = (mean >= 0.5) == labels, np.where(labels == 1, mean, 1 - mean)
    scored = chunks["nucleotide"].isin(OPEN).to_numpy()
    for status, own in (("scored", scored), ("no_open_frame", ~scored)):
        assert choices[status].accuracy["mean"] == right[own].mean() < choices[status].accuracy["companion"] == 1
        assert choices[status].log_loss["mean"] == pytest.approx(-np.log(of_label[own]).mean())
        assert (choices[status].chunks, choices[status].viral) == (own.sum(), labels[own].sum())
    assert chosen.companion.temperature == fit_temperature(labels, margins)


def test_what_cannot_be_measured_is_said(copied, by_method, companion_checkpoint):
    chunks = chunks_called(by_method["companion"])
    one_class = chunks[chunks["label"] == 1]
    choices = add_companion(copied, CompanionSource(companion_checkpoint, "m", one_class), seed=1)
    assert all(choice.method == "frames" and "lacks one of the classes" in choice.reason for choice in choices.values())
    config = json.loads((copied / "scorer.json").read_text())
    (copied / "scorer.json").write_text(json.dumps(config | {"probe": {**config["probe"], "probability": None}}))
    choices = add_companion(copied, CompanionSource(companion_checkpoint, "m", chunks), seed=1)
    assert all(choice.method == "frames" and "not available" in choice.reason for choice in choices.values())
    assert set(load_scorer(copied).methods.values()) == {"frames"}


@pytest.fixture
def with_companion(copied, by_method, companion_checkpoint):
    add_companion(copied, CompanionSource(companion_checkpoint, "m", chunks_called(by_method["companion"])), seed=1)
    return copied


def test_a_missing_or_changed_companion_is_refused(with_companion):
    path = with_companion / "companion.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=r"companion\.safetensors: missing or changed"):
        load_scorer(with_companion)
    path.unlink()
    with pytest.raises(DataError, match=r"companion\.safetensors: missing or changed"):
        load_scorer(with_companion)


def test_a_companion_that_scores_otherwise_is_noticed(with_companion):
    loaded = load_scorer(with_companion)
    bent = replace(loaded, companion=replace(loaded.companion, temperature=9.0))
    with pytest.raises(DataError, match="a probe sequence scores"):
        check_probe(bent, with_companion)


def test_companions_of_other_encoders_splits_and_halves_are_refused(copied, by_method, companion_checkpoint):
    chunks, metadata = chunks_called(by_method["companion"]), companion_checkpoint.metadata
    dna = {**metadata["encoders"]["dna"], "weight_digest": "f" * 64}
    for change, match in (
        ({"modality": "merged"}, "reads more than DNA"),
        ({"split_digest": "1" * 64}, "trained on another split"),
        ({"split_digest": None}, "its split is not recorded"),
        ({"encoders": {}}, "with name None"),
        ({"encoders": {**metadata["encoders"], "dna": dna}}, "with weight_digest ffff"),
    ):
        other = replace(companion_checkpoint, metadata={**metadata, **change})
        with pytest.raises(IncompatibleCheckpointError, match=match):
            add_companion(copied, CompanionSource(other, "m", chunks), seed=1)
    assert load_scorer(copied).companion is None


def test_a_scorer_is_not_made_with_a_companion_that_does_not_fit(scorer, checkpoint, companion_checkpoint):
    with pytest.raises(DimensionError, match="companion takes 656 values, but tetranucleotide gives 256"):
        replace(scorer, companion=Companion(checkpoint.build()))
    with pytest.raises(DataError, match="cannot be scored by"):
        replace(scorer, methods=dict.fromkeys(ANSWERED, "companion"))


@pytest.mark.parametrize(("version", "key"), [(2, "way"), (3, "fallback")])
def test_scorers_of_formats_2_and_3_use_the_companion_without_an_open_frame_alone(packed, with_companion, version, key):
    config = json.loads((with_companion / "scorer.json").read_text()) | {"format_version": version}
    config["probe"] = json.loads((packed / "scorer.json").read_text())["probe"]  # by its open frame
    config["no_open_frame"] = {key: "companion", "accuracy": {}, "chunks": 3, "viral": 1, "genomes": 1, "reason": ""}
    del config["methods"]
    (with_companion / "scorer.json").write_text(json.dumps(config))
    assert load_scorer(with_companion).methods == {"scored": "frames", "no_open_frame": "companion"}


def test_a_scorer_of_format_1_scores_by_the_longest_open_reading_frame(packed, copied, scorer):
    config = json.loads((packed / "scorer.json").read_text())
    for name in ("companion", "methods"):
        del config[name]
    (copied / "scorer.json").write_text(json.dumps(config | {"format_version": 1}))
    pd.testing.assert_frame_equal(load_scorer(copied).score(MIXED), scorer.score(MIXED))


def test_a_model_of_proteins_alone_can_have_no_companion(checkpoint, companion_checkpoint, by_method, tmp_path):
    weight = checkpoint.model_state["hidden_layer.weight"][:, 256:].clone()
    own = replace(
        checkpoint,
        model_state={**checkpoint.model_state, "hidden_layer.weight": weight},
        metadata={**checkpoint.metadata, "modality": "protein", "input_dim": 400},
    )
    save_scorer(own, tmp_path / "scorer", 300)
    source = CompanionSource(companion_checkpoint, "m", chunks_called(by_method["companion"]))
    with pytest.raises(IncompatibleCheckpointError, match="proteins alone"):
        add_companion(tmp_path / "scorer", source, seed=1)


def test_a_sample_depends_on_seed_and_ids_alone():
    chunks = pd.DataFrame({"chunk_id": [f"g_chunk_{n}" for n in range(100)]})
    sample = set(sample_chunks(chunks, 20, 1)["chunk_id"])
    assert len(sample) == 20 and set(sample_chunks(chunks[::-1], 20, 1)["chunk_id"]) == sample
    assert set(sample_chunks(chunks, 20, 2)["chunk_id"]) != sample
    assert len(sample_chunks(chunks, 100, 1)) == 100
