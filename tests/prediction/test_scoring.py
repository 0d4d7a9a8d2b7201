"""From chunks to scores: statuses, VirNucPro's rule, the scorer on disk; the oracles are slow and simple."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.shared.golden import CASES
from tests.shared.samples import six_frames
from virnuc.encoders import load_encoder
from virnuc.errors import DataError, DimensionError, EncoderError, UsageError
from virnuc.evaluation.predictions import chunk_predictions
from virnuc.prediction import scorer as scorer_files
from virnuc.prediction import sequences as in_memory
from virnuc.prediction.calls import call_chunks
from virnuc.prediction.chunks import STATUSES, cut, cut_chunks
from virnuc.prediction.scorer import check_probe, load_scorer, save_scorer
from virnuc.prediction.sequences import score_sequences

GOLDEN = CASES["esm2"].directory
DRAW = random.Random(7)
CODING = "".join(DRAW.choice(["GCT", "GAA", "CTG", "AAA", "GGC", "CCG"]) for _ in range(100))
STOPS = "TAATTAATTAA" * 27 + "TAA"


def naive(chunk):
    """Return status and (frame, DNA, protein) of each piece by definition."""
    if len(chunk) < 30:
        return "too_short", []
    if sum(letter not in "ACGT" for letter in chunk) > 0.1 * len(chunk):
        return "ambiguous", []
    frames = six_frames(chunk)
    opened = [(f.name, f.nucleotide, f.protein) for f in frames if "*" not in f.protein]
    if opened:
        return "scored", opened
    runs = [(f.name, f.nucleotide, part) for f in frames for part in f.protein.split("*")]
    longest = max(runs, key=lambda run: len(run[2]))
    return ("no_open_frame", [longest]) if len(longest[2]) >= 10 else ("too_short", [])


letters = st.text(alphabet="ACGTACGTACGTACGTACGTN", max_size=120)
tame = st.lists(st.sampled_from(["GCT", "GAA", "AAA", "TAA"]), max_size=40).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(letters | tame, max_size=8))
def test_pieces_and_statuses_are_those_of_the_definition(chunks):
    statuses, pieces = cut(chunks)
    wanted = [naive(chunk) for chunk in chunks]
    assert statuses == [status for status, _ in wanted]
    found = [(piece.chunk, piece.frame, piece.nucleotide, piece.protein) for piece in pieces]
    assert found == [(number, *piece) for number, (_, some) in enumerate(wanted) for piece in some]


def test_each_status_has_its_example():
    chunks = [CODING, CODING[:140] + "TTAA" * 5 + CODING[:140], "N" * 40 + CODING[:260], "ACGT", STOPS]
    assert cut(chunks)[0] == ["scored", "no_open_frame", "ambiguous", "too_short", "too_short"]


@given(st.integers(0, 2000), st.integers(30, 600))
def test_chunks_cover_a_sequence_from_end_to_end(length, size):
    sequence = "".join(DRAW.choices("ACGT", k=length))
    found = list(cut_chunks(sequence, size))
    assert len(found) == max(1, -(-length // size))
    assert found[0][0] == 0 and found[-1][0] + len(found[-1][1]) == length
    assert all(sequence[start : start + len(part)] == part for start, part in found)


def test_scores_are_those_of_each_frame_by_itself(scorer):
    """The expected scores are computed one piece at a time, by encoders and classifier."""
    chunks = ["".join(DRAW.choices("ACGT", k=300)) for _ in range(40)] + [CODING, CODING[::-1], "A" * 20]
    table = scorer.score(chunks)
    dna, protein = (load_encoder(name) for name in ("tetranucleotide", "dipeptide"))
    for chunk, row in zip(chunks, table.itertuples(), strict=True):
        status, pieces = naive(chunk)
        assert row.status == status and row.frames == len(pieces)
        if not pieces:
            assert np.isnan(row.score1) and row.frame == ""
            continue
        scores = []
        for _, nucleotide, translated in pieces:
            vector = torch.cat([dna.embed([nucleotide]), protein.embed([translated])], dim=1)
            scores.append(torch.softmax(scorer.classifier(vector).double(), dim=1)[0].tolist())
        non_viral, viral = (max(column) for column in zip(*scores, strict=True))
        assert (row.score1, row.score2) == pytest.approx((non_viral, viral), abs=1e-6)
        best = max(range(len(pieces)), key=lambda number: scores[number][int(viral >= non_viral)])
        assert row.frame == pieces[best][0]


def test_the_rule_and_its_probability_are_those_of_the_evaluation(scorer):
    chunks = [CODING[shift:] + CODING[:shift] for shift in range(60)]
    table = scorer.score(chunks)
    assert (table["frames"] > 1).any()
    viral = call_chunks(table) == "virus"
    assert (viral == (table["score2"] >= table["score1"])).all()
    rows = []
    for number, chunk in enumerate(chunks):
        for name, nucleotide, translated in naive(chunk)[1]:
            vector = torch.cat(
                [load_encoder("tetranucleotide").embed([nucleotide]), load_encoder("dipeptide").embed([translated])], 1
            )
            score = torch.softmax(scorer.classifier(vector).double(), 1)[0, 1].item()
            rows.append({"chunk": f"c{number}", "score": score, "frame_id": name})
    frames = pd.DataFrame(rows).assign(genome="g", organism="", lineage="", group="viral", label=1, length=300)
    assert table["probability"].to_numpy() == pytest.approx(chunk_predictions(frames)["score"].to_numpy(), abs=1e-6)


def test_a_tie_is_viral():
    scores = pd.DataFrame(
        {"status": ["scored", "scored", "too_short"], "probability": [0.5, np.nextafter(0.5, 0), np.nan]}
    )
    assert call_chunks(scores).tolist() == ["virus", "others", ""]


def test_scores_do_not_depend_on_what_else_is_scored(scorer):
    chunks = ["".join(DRAW.choices("ACGT", k=DRAW.choice([90, 300]))) for _ in range(50)]
    together = scorer.score(chunks)["score2"].to_numpy()
    alone = np.concatenate([scorer.score([chunk])["score2"].to_numpy() for chunk in chunks])
    assert together == pytest.approx(alone, abs=5e-6, nan_ok=True)  # float32 sums in another order


def test_temperature_changes_probabilities_and_not_the_call_of_a_single_frame(scorer):
    chunks = ["".join(DRAW.choices("ACGT", k=300)) for _ in range(30)]
    table, warm = scorer.score(chunks), replace(scorer, temperature=3.0).score(chunks)
    single = table["frames"] == 1
    assert single.sum() > 10
    assert (call_chunks(warm) == call_chunks(table))[single].all()
    assert ((warm["probability"] - 0.5).abs() < (table["probability"] - 0.5).abs())[single].all()


def test_sequences_add_up_their_chunks(scorer):
    sequences = [CODING * 3, "", "ACGT", "N" * 500, "".join(DRAW.choices("ACGT", k=1000)), CODING]
    table = score_sequences(scorer, sequences)
    assert table["chunks"].tolist() == [3, 1, 1, 2, 4, 1]
    assert (table[list(STATUSES)].sum(axis=1) == table["chunks"]).all()
    assert table["label"].eq("").tolist() == [False, True, True, True, False, False]
    assert table["status"].tolist()[1:4] == ["too_short", "too_short", "ambiguous"]
    chunks = [part for _, part in cut_chunks(sequences[4], 300)]
    p = scorer.score(chunks)["probability"].to_numpy()
    mean = np.log(p / (1 - p)).mean()
    assert table["probability"][4] == pytest.approx(1 / (1 + np.exp(-mean)), abs=1e-6)
    assert table["strongest_chunk"][4] == p.argmax() + 1
    assert table["probability"][5] == pytest.approx(scorer.score([CODING])["probability"][0], abs=1e-9)


def test_sequences_may_be_scored_in_several_batches(scorer, monkeypatch):
    drawn = ["".join(DRAW.choices("ACGT", k=300 * chunks)) for chunks in (7, 1, 12)]
    whole = score_sequences(scorer, drawn)
    monkeypatch.setattr(in_memory, "CHUNKS_AT_ONCE", 5)
    pd.testing.assert_frame_equal(score_sequences(scorer, drawn), whole)


def test_a_scorer_is_read_back_as_it_was_written(packed, checkpoint):
    scorer = load_scorer(packed)
    assert check_probe(scorer, packed) == 0
    for name, value in checkpoint.build().state_dict().items():
        assert torch.equal(scorer.classifier.state_dict()[name], value)
    assert sorted(path.suffix for path in packed.rglob("*") if path.is_file()) == [".json", ".safetensors"]


def copied(packed, tmp_path, **changes):
    config = json.loads((packed / "scorer.json").read_text()) | changes
    (tmp_path / "scorer.json").write_text(json.dumps(config))
    (tmp_path / "classifier.safetensors").write_bytes((packed / "classifier.safetensors").read_bytes())
    return tmp_path


def test_changed_weights_of_the_classifier_are_refused(packed, tmp_path):
    path = copied(packed, tmp_path) / "classifier.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=r"classifier.safetensors: missing or changed"):
        load_scorer(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 99}'])
def test_a_damaged_scorer_is_refused(tmp_path, text):
    (tmp_path / "scorer.json").write_text(text)
    with pytest.raises(DataError, match=r"scorer.json"):
        load_scorer(tmp_path)


def test_an_encoder_with_other_weights_is_refused(packed, tmp_path):
    encoders = json.loads((packed / "scorer.json").read_text())["encoders"]
    encoders[0]["weight_digest"] = "f" * 64
    with pytest.raises(EncoderError, match="not those that were used then"):
        load_scorer(copied(packed, tmp_path, encoders=encoders))


def test_a_probe_that_scores_otherwise_is_refused(packed, tmp_path):
    path = copied(packed, tmp_path, probe={"sequence": scorer_files.PROBE, "probability": 0.123})
    with pytest.raises(DataError, match=r"away from its recorded 0\.123"):
        load_scorer(path)


def test_encoders_that_do_not_fit_the_classifier_are_refused(scorer):
    with pytest.raises(DimensionError, match="takes 656 values, but tetranucleotide give 256"):
        replace(scorer, encoders=scorer.encoders[:1])


def language_model(directory, shift=0.0):
    """Copy the golden ESM-2 model, with `shift` added to its token embeddings."""
    shutil.copytree(GOLDEN, directory)
    tensors = load_file(directory / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    save_file({**tensors, name: tensors[name] + shift}, directory / "model.safetensors")
    return directory


def with_language_model(checkpoint, directory):
    encoder = load_encoder(f"esm:{directory}")
    width = 256 + encoder.dimension
    sizes = {"protein_dim": encoder.dimension, "merged_dim": width, "input_dim": width}
    encoders = {**checkpoint.metadata["encoders"], "protein": encoder.provenance.asdict()}
    metadata = {**checkpoint.metadata, **sizes, "encoders": encoders, "model_type": encoder.name}
    state = {
        **checkpoint.model_state,
        "hidden_layer.weight": checkpoint.model_state["hidden_layer.weight"][:, :width].clone(),
    }
    return replace(checkpoint, model_state=state, metadata=metadata), encoder


def test_small_weights_travel_inside_and_run_where_the_originals_are_gone(checkpoint, tmp_path):
    own, encoder = with_language_model(checkpoint, language_model(tmp_path / "esm"))
    save_scorer(own, tmp_path / "scorer", 300, {encoder.name: str(tmp_path / "esm")})
    (tmp_path / "esm").rename(tmp_path / "gone")
    scorer = load_scorer(tmp_path / "scorer")
    assert check_probe(scorer, tmp_path / "scorer") == 0
    assert (tmp_path / "scorer" / "encoders" / "protein" / "model.safetensors").is_file()
    config = tmp_path / "scorer" / "encoders" / "protein" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layer_norm_eps": 1.0}))
    with pytest.raises(EncoderError, match=r"its config is .*1\.0.* but was .*get its config\.json again"):
        load_scorer(tmp_path / "scorer")


def test_an_edited_config_of_an_encoder_is_refused(checkpoint, tmp_path):
    own, encoder = with_language_model(checkpoint, language_model(tmp_path / "esm"))
    save_scorer(own, tmp_path / "scorer", 300, {encoder.name: str(tmp_path / "esm")})
    path = tmp_path / "scorer" / "encoders" / "protein" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_norm_eps": 1.0}))
    with pytest.raises(EncoderError, match=r"its config is .*'epsilon': 1\.0.* in training"):
        load_scorer(tmp_path / "scorer")


def test_large_weights_are_referenced_and_checked(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(scorer_files, "MAX_INSIDE_BYTES", 10)
    own, encoder = with_language_model(checkpoint, language_model(tmp_path / "esm"))
    save_scorer(own, tmp_path / "scorer", 300, {encoder.name: str(tmp_path / "esm")})
    assert not (tmp_path / "scorer" / "encoders").exists()
    with pytest.raises(UsageError, match=f"--weights {encoder.name}=DIR"):
        load_scorer(tmp_path / "scorer")
    assert load_scorer(tmp_path / "scorer", {encoder.name: str(tmp_path / "esm")}).encoders[1].name == encoder.name
    other = language_model(tmp_path / "other", shift=0.1)
    with pytest.raises(EncoderError, match=f"not {encoder.name}"):
        load_scorer(tmp_path / "scorer", {encoder.name: str(other)})
    with pytest.raises(UsageError, match="not a directory"):
        load_scorer(tmp_path / "scorer", {encoder.name: str(tmp_path / "nowhere")})
