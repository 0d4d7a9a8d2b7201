"""Chunks without an open frame: scored as by hand, by the fallback that validation chose."""

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
from virnuc.prediction.chunks import cut
from virnuc.prediction.companion import FALLBACKS, Companion
from virnuc.prediction.fallback import CompanionSource, add_companion, called_right, sample_chunks, score_chunks
from virnuc.prediction.prediction import predict
from virnuc.prediction.scorer import check_probe, load_scorer, read_fallback, save_scorer
from virnuc.prediction.sequences import score_sequences
from virnuc.sequences.translation import reverse_complement

DRAW = random.Random(3)
STATUSES = ("scored", "no_open_frame", "ambiguous", "too_short")


def drawn(count, status):
    """Random chunks that have one status."""
    found = []
    while len(found) < count:
        chunk = "".join(DRAW.choices("ACGT", weights=[3, 1, 1, 3] if status == "no_open_frame" else None, k=120))
        if cut([chunk])[0] == [status]:
            found.append(chunk)
    return found


STOPPED = drawn(40, "no_open_frame")
MIXED = [
    *STOPPED[:6],
    *drawn(3, "scored"),
    "ACGT",
    "N" * 120,
    STOPPED[7][:60] + "NNN" + STOPPED[7][63:],
    *STOPPED[8:10],
]


@pytest.fixture
def together(scorer, companion_checkpoint):
    """The scorer with its companion, for each fallback."""
    companion = Companion(companion_checkpoint.build(), temperature=1.7)
    return {fallback: replace(scorer, companion=companion, fallback=fallback) for fallback in FALLBACKS}


def by_hand(chunk, checkpoint, temperature):
    """Both probabilities from the definition: logits of both strands, their mean, softmax."""
    encoder, model = load_encoder("tetranucleotide"), checkpoint.build()
    with torch.inference_mode():
        logits = [model(encoder.embed([strand]))[0].double().numpy() for strand in (chunk, reverse_complement(chunk))]
    powers = np.exp(np.mean(logits, axis=0) / temperature)
    return powers / powers.sum()


def test_the_companion_scores_chunks_without_an_open_frame_and_no_others(scorer, together, companion_checkpoint):
    alone = scorer.score(MIXED)
    tables = {fallback: own.score(MIXED) for fallback, own in together.items()}
    stopped = alone["status"] == "no_open_frame"
    assert stopped.sum() == 9 and set(alone["status"]) == set(STATUSES)
    for fallback, table in tables.items():
        assert table["status"].tolist() == alone["status"].tolist()
        pd.testing.assert_frame_equal(table[~stopped], alone[~stopped])
        assert set(table.loc[stopped, "scored_by"]) == {fallback}
        assert set(table.loc[alone["status"] == "scored", "scored_by"]) == {"frames"}
        assert set(table.loc[alone["status"].isin(["ambiguous", "too_short"]), "scored_by"]) == {""}
        assert ((table["probability"] >= 0.5) == (table["score2"] >= table["score1"]))[stopped].all()
    pd.testing.assert_frame_equal(tables["longest_orf"], alone)
    for number in np.flatnonzero(stopped):
        own = by_hand(MIXED[number], companion_checkpoint, 1.7)
        orf = alone.loc[number, ["score1", "score2"]].to_numpy(float)
        for fallback, wanted in (("companion", own), ("mean", (own + orf) / 2)):
            assert tables[fallback].loc[number, ["score1", "score2"]].to_numpy(float) == pytest.approx(wanted, abs=1e-6)
            assert tables[fallback]["probability"][number] == pytest.approx(wanted[1], abs=1e-6)
    assert tables["companion"].loc[stopped, "frame"].eq("").all()
    assert tables["companion"].loc[stopped, "frames"].eq(0).all()
    assert tables["mean"].loc[stopped, "frame"].tolist() == alone.loc[stopped, "frame"].tolist()


def test_the_strand_that_was_read_does_not_matter_to_the_companion(together):
    forward = together["companion"].score(STOPPED)["probability"]
    backward = together["companion"].score([reverse_complement(chunk) for chunk in STOPPED])["probability"]
    assert forward.to_numpy() == pytest.approx(backward.to_numpy(), abs=1e-6)


def test_predict_and_the_answer_to_a_request_agree_and_say_who_scored(together, tmp_path):
    sequences = ["".join(STOPPED[:5]), MIXED[6] * 3, STOPPED[5]]
    (tmp_path / "a.fa").write_text("".join(f">s{n}\n{sequence}\n" for n, sequence in enumerate(sequences)))
    scorer = replace(together["companion"], chunk_size=120)
    predict([str(tmp_path / "a.fa")], scorer, "m", tmp_path / "out")
    calls = pd.read_csv(tmp_path / "out" / "calls.tsv", sep="\t", keep_default_na=False)
    expected = {"scored": "frames", "no_open_frame": "companion"}
    assert calls["scored_by"].tolist() == [expected[status] for status in calls["status"]]
    assert set(calls["scored_by"]) == {"frames", "companion"}
    summary, direct = pd.read_parquet(tmp_path / "out" / "sequences.parquet"), score_sequences(scorer, sequences)
    assert summary["probability"].to_numpy() == pytest.approx(direct["probability"].to_numpy(), abs=1e-9)
    with pytest.raises(DataError, match="no_open_frame=companion, not longest_orf"):
        predict([str(tmp_path / "a.fa")], replace(scorer, fallback="longest_orf"), "m", tmp_path / "out")


def chunks_called(scorer, *, wrong=0):
    """Labelled chunks, all of which `scorer` calls rightly but the first `wrong`."""
    table = pd.DataFrame({"chunk_id": [f"g{n // 4}_chunk_{n}" for n in range(len(STOPPED))], "nucleotide": STOPPED})
    table["genome"], table["reason"] = [f"g{n // 4}" for n in range(len(STOPPED))], "no_open_frame"
    table["label"] = (scorer.score(STOPPED)["probability"] >= 0.5).astype("int8")
    table.loc[: wrong - 1, "label"] = 1 - table["label"]
    return table


@pytest.fixture
def copied(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "scorer")


@pytest.mark.parametrize("best", FALLBACKS)
def test_the_way_that_calls_most_validation_chunks_rightly_is_chosen_and_kept(
    together, copied, companion_checkpoint, best
):
    bare = {"longest_orf": together["longest_orf"], "companion": together["companion"]}
    source = CompanionSource(companion_checkpoint, "models:/virnuc-x_dna/3", chunks_called(together[best], wrong=3))
    record = add_companion(copied, source, seed=1)
    loaded = load_scorer(copied)
    again = score_chunks(loaded, source.chunks)
    assert record.accuracy[record.fallback] == max(record.accuracy.values()) == called_right(again).mean()
    for fallback in bare:
        wanted = called_right(score_chunks(bare[fallback], source.chunks)).mean()
        assert record.accuracy[fallback] == wanted  # no temperature changes these two calls
    if best != "mean":
        assert record.fallback == best and record.accuracy[best] == 1 - 3 / 40
    assert (record.chunks, record.viral, record.genomes) == (40, source.chunks["label"].sum(), 10)
    config = json.loads((copied / "scorer.json").read_text())
    assert read_fallback(config) == record and set(again["scored_by"]) == {record.fallback}
    assert (
        (copied / "companion.safetensors").exists()
        == (record.fallback != "longest_orf")
        == (config["companion"] is not None)
    )
    assert check_probe(loaded, copied) == 0
    if config["companion"]:
        assert config["companion"]["origin"] == "models:/virnuc-x_dna/3"
        stopped = config["companion"]["probe"]["sequence"]
        assert loaded.score([stopped])["scored_by"].tolist() == [record.fallback]


def test_what_cannot_be_measured_is_said(copied, together, companion_checkpoint, monkeypatch):
    chunks = chunks_called(together["companion"])
    one_class = chunks[chunks["label"] == 1]
    record = add_companion(copied, CompanionSource(companion_checkpoint, "m", one_class), seed=1)
    assert record.fallback == "longest_orf" and "not of both classes" in record.reason
    config = json.loads((copied / "scorer.json").read_text())
    (copied / "scorer.json").write_text(json.dumps(config | {"probe": {**config["probe"], "probability": None}}))
    record = add_companion(copied, CompanionSource(companion_checkpoint, "m", chunks), seed=1)
    assert record.fallback == "longest_orf" and "not available" in record.reason
    assert load_scorer(copied).fallback == "longest_orf"


@pytest.fixture
def with_companion(copied, together, companion_checkpoint):
    add_companion(copied, CompanionSource(companion_checkpoint, "m", chunks_called(together["companion"])), seed=1)
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


def test_companions_of_other_encoders_splits_and_halves_are_refused(copied, together, companion_checkpoint):
    chunks, metadata = chunks_called(together["companion"]), companion_checkpoint.metadata
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
    with pytest.raises(DataError, match="cannot be scored by 'companion'"):
        replace(scorer, fallback="companion")


def test_a_scorer_of_format_2_has_other_names_for_the_same(packed, copied, scorer):
    config = json.loads((packed / "scorer.json").read_text()) | {"format_version": 2}
    config["no_open_frame"]["way"] = "stretch"
    config["no_open_frame"]["accuracy"] = {"stretch": 0.5, "mean": 0.25}
    del config["no_open_frame"]["fallback"]
    (copied / "scorer.json").write_text(json.dumps(config))
    record = read_fallback(config)
    assert (record.fallback, record.accuracy) == ("longest_orf", {"longest_orf": 0.5, "mean": 0.25})
    pd.testing.assert_frame_equal(load_scorer(copied).score(MIXED), scorer.score(MIXED))


def test_a_scorer_of_format_1_scores_by_the_longest_open_reading_frame(packed, copied, scorer):
    config = json.loads((packed / "scorer.json").read_text())
    for name in ("companion", "no_open_frame"):
        del config[name]
    (copied / "scorer.json").write_text(json.dumps(config | {"format_version": 1}))
    pd.testing.assert_frame_equal(load_scorer(copied).score(MIXED), scorer.score(MIXED))


def test_a_model_of_proteins_alone_can_have_no_companion(checkpoint, companion_checkpoint, together, tmp_path):
    weight = checkpoint.model_state["hidden_layer.weight"][:, 256:].clone()
    own = replace(
        checkpoint,
        model_state={**checkpoint.model_state, "hidden_layer.weight": weight},
        metadata={**checkpoint.metadata, "modality": "protein", "input_dim": 400},
    )
    save_scorer(own, tmp_path / "scorer", 300)
    source = CompanionSource(companion_checkpoint, "m", chunks_called(together["companion"]))
    with pytest.raises(IncompatibleCheckpointError, match="proteins alone"):
        add_companion(tmp_path / "scorer", source, seed=1)


def test_a_sample_depends_on_seed_and_ids_alone():
    chunks = pd.DataFrame({"chunk_id": [f"g_chunk_{n}" for n in range(100)]})
    sample = set(sample_chunks(chunks, 20, 1)["chunk_id"])
    assert len(sample) == 20 and set(sample_chunks(chunks[::-1], 20, 1)["chunk_id"]) == sample
    assert set(sample_chunks(chunks, 20, 2)["chunk_id"]) != sample
    assert len(sample_chunks(chunks, 100, 1)) == 100
