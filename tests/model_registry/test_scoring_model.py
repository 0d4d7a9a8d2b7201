"""The registered model: loaded, served over HTTP and used in batches, it answers as `predict` does.

The file is longer than others because all its tests use one registered model, which takes seconds to make.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_ident

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.tracking import MlflowClient
from starlette.testclient import TestClient

from entrypoints.predict import predict as predict_stage
from model_registry.card import OVERRIDE, OVERRIDE_RULES, update_card
from model_registry.health import about_version, check_champion, describe_version
from model_registry.packaging import download_scorer, log_scoring_model
from model_registry.promotion import NAMED
from tests.shared.serving import load_scoring_model, records
from virnuc.encoders import load_encoder
from virnuc.errors import DataError
from virnuc.prediction.choosing import CompanionSource, add_companion
from virnuc.prediction.chunks import cut
from virnuc.prediction.companion import Companion
from virnuc.prediction.prediction import predict
from virnuc.prediction.scorer import load_scorer, save_scorer
from virnuc.prediction.scoring import Scorer
from virnuc.settings import PredictSettings
from virnuc.tracking import find_finished
from virnuc.training.checkpoint import Checkpoint
from virnuc.training.classifier import Classifier

DRAW = random.Random(5)
SEQUENCES = ["".join(DRAW.choices("ACGT", k=length)) for length in (300, 900, 450, 60, 20)]
MEASURED = []
COLUMNS = ["probability", "label", "status", "chunks", "strongest_chunk", "frame"]


def composition_checkpoint():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = {name: value.clone() for name, value in Classifier(656).state_dict().items()}
    encoders = {kind: load_encoder(name).provenance.asdict() for kind, name in
                (("dna", "tetranucleotide"), ("protein", "dipeptide"))}  # fmt: skip
    sizes = {"dna_dim": 256, "protein_dim": 400, "merged_dim": 656, "input_dim": 656, "hidden_dim": 512, "num_class": 2}
    origin = {"checkpoint_version": "2.0.0", "model_type": "dipeptide", "modality": "merged", "split_digest": "5" * 64}
    return Checkpoint(state, {**sizes, **origin, "encoders": encoders})


def companion_source():
    """A companion of the same DNA encoder, and chunks without an open frame that only it calls correctly."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        state = {name: value.clone() for name, value in Classifier(256).state_dict().items()}
    checkpoint = composition_checkpoint()
    checkpoint = Checkpoint(state, {**checkpoint.metadata, "modality": "dna", "input_dim": 256})
    chunks = ["".join(DRAW.choices("ACGT", k=300)) for _ in range(60)]
    chunks = [chunk for chunk in chunks if cut([chunk])[0] == ["no_open_frame"]]
    logits = Companion(checkpoint.build()).logits(load_encoder("tetranucleotide"), chunks, 10_000, "cpu")
    table = pd.DataFrame({"chunk_id": [f"g_chunk_{n}" for n in range(len(chunks))], "nucleotide": chunks})
    table["genome"] = [f"g{n % 8}" for n in range(len(chunks))]
    table["label"], table["reason"] = (logits[:, 1] >= logits[:, 0]).astype("int8"), "no_open_frame"
    return CompanionSource(checkpoint, "models:/virnuc-tetranucleotide_dna/1", table)


@pytest.fixture(scope="module")
def registered(tmp_path_factory, empty_store):
    """The URI of a store with one registered model, which is the champion and has a companion."""
    home = tmp_path_factory.mktemp("store")
    mlflow.set_tracking_uri(f"sqlite:///{shutil.copy(empty_store, home / 'mlflow.db')}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("tests", artifact_location=str(home / "files")))
    save_scorer(composition_checkpoint(), home / "scorer", chunk_size=300)
    MEASURED.append(add_companion(home / "scorer", companion_source(), seed=42))
    with mlflow.start_run():
        version = log_scoring_model(home / "scorer", "virnuc")
    MlflowClient().set_registered_model_alias("virnuc", "champion", version.version)
    MlflowClient().set_registered_model_tag("virnuc", f"{NAMED}champion", version.version)
    yield "models:/virnuc@champion"
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def model(registered):
    return load_scoring_model(registered)


@pytest.fixture(scope="module")
def predicted(registered, tmp_path_factory):
    """The calls of `predict` on the sequences."""
    out = tmp_path_factory.mktemp("calls")
    (out / "a.fa").write_text("".join(f">s{n}\n{sequence}\n" for n, sequence in enumerate(SEQUENCES)))
    predict([str(out / "a.fa")], load_scorer(download_scorer(registered, out)), "m", out / "calls")
    return pd.read_parquet(out / "calls" / "sequences.parquet")


def assert_same(answer, predicted):
    assert answer["probability"].to_numpy(float) == pytest.approx(
        predicted["probability"].to_numpy(), abs=1e-6, nan_ok=True
    )
    for name in ("label", "status", "chunks", "frame"):
        assert answer[name].tolist() == predicted[name].tolist()


def test_it_answers_as_predict_does(model, predicted):
    assert_same(model.predict(pd.DataFrame({"sequence": SEQUENCES})), predicted)


def test_the_companion_answers_for_chunks_without_an_open_frame(registered, model, tmp_path):
    (choices,) = MEASURED
    choice = choices["no_open_frame"]
    assert choice.method == "companion" and choice.accuracy["companion"] == 1 > choice.accuracy["frames"]
    alone = Companion(
        companion_source().checkpoint.build(), load_scorer(download_scorer(registered, tmp_path)).companion.temperature
    )
    chunk = companion_source().chunks["nucleotide"][0]
    wanted = alone.probabilities(load_encoder("tetranucleotide"), [chunk], 10_000, "cpu")[0, 1]
    answer = model.predict(pd.DataFrame({"sequence": [chunk]}))
    assert answer["status"].tolist() == ["no_open_frame"]
    assert answer["probability"][0] == pytest.approx(wanted, abs=1e-6)
    card = update_card(registered)
    assert "by a companion that reads their DNA alone" in card and "models:/virnuc-tetranucleotide_dna/1" in card
    assert f"companion {1:.3f}" in card and f"frames {choice.accuracy['frames']:.3f}" in card


def test_batches_of_a_data_frame_give_the_same(model, predicted):
    """As a Spark UDF does, one object scores many pieces of a column."""
    pieces = [model.predict(pd.DataFrame({"sequence": SEQUENCES[i : i + 2]})) for i in range(0, len(SEQUENCES), 2)]
    assert_same(pd.concat(pieces), predicted)


def test_no_pickle_is_among_its_files(registered):
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    directory = Path(mlflow.artifacts.download_artifacts(registered))
    suffixes = {path.suffix for path in directory.rglob("*") if path.is_file() and "code" not in path.parts}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}


def test_parameters_change_the_answer(model):
    data = pd.DataFrame({"sequence": SEQUENCES[:2]})
    assert model.predict(data, params={"threshold": 0.0})["label"].tolist() == ["virus", "virus"]
    assert model.predict(data, params={"chunk_size": 100})["chunks"].tolist() == [3, 9]


BAD = {"null": None, "empty": "", "blank": "  ", "letters": "ACGTZ", "protein": "MKLV*", "long": "A" * 10_000_001}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_row_does_not_lose_the_others(model, kind):
    data = pd.DataFrame({"sequence": [SEQUENCES[0], BAD[kind], SEQUENCES[1]], "id": ["one", "bad", "two"]})
    answer = model.predict(data)
    good = model.predict(data.iloc[[0, 2]])
    assert answer["status"].tolist() == [good["status"].iloc[0], "invalid", good["status"].iloc[1]]
    assert "bad" in answer["error"].iloc[1] and not answer["error"].iloc[[0, 2]].any()
    assert answer["probability"].iloc[[0, 2]].tolist() == pytest.approx(good["probability"].tolist())


def test_a_row_without_an_id_has_its_number(model):
    data = pd.DataFrame({"sequence": SEQUENCES[:2]})
    assert model.predict(data)["id"].tolist() == ["0", "1"]
    assert model.predict(data.assign(id=["one", None]))["id"].tolist() == ["one", "1"]


@pytest.mark.parametrize("kind", BAD)
def test_a_request_with_nothing_to_score_is_refused(model, kind):
    with pytest.raises(MlflowException, match="nothing can be scored") as caught:
        model.predict(pd.DataFrame({"sequence": [BAD[kind]]}))
    assert caught.value.get_http_status_code() == 400


def test_requests_of_several_threads_are_scored_in_one(model, predicted, monkeypatch):
    real, threads = Scorer.score_frames, set()

    def noted(*args):
        threads.add(get_ident())
        return real(*args)

    monkeypatch.setattr(Scorer, "score_frames", noted)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(model.predict, [pd.DataFrame({"sequence": SEQUENCES})] * 3))
    assert len(threads) == 1
    for answer in answers:
        assert_same(answer, predicted)


@pytest.mark.parametrize("params", [{"threshold": 1.5}, {"chunk_size": 10}, {"batch_tokens": 0}])
def test_parameters_out_of_range_are_refused(model, params):
    with pytest.raises(MlflowException, match=next(iter(params))):
        model.predict(pd.DataFrame({"sequence": SEQUENCES[:1]}), params=params)


def test_the_card_and_the_champions_health(registered):
    card = update_card(registered)
    assert "tetranucleotide and dipeptide" in card and "Not evaluated yet" in card and "licence: MIT" in card
    assert MlflowClient().get_model_version_by_alias("virnuc", "champion").description == card
    assert [check.outcome for check in check_champion()] == ["PASS", "PASS", "PASS"]
    assert check_champion("nobody")[0].outcome == "WARN"


def test_a_promotion_against_the_gate_is_shown_wherever_the_champion_is(registered, tmp_path):
    client = MlflowClient()
    number = client.get_model_version_by_alias("virnuc", "champion").version
    tags = {OVERRIDE: "outbreak", OVERRIDE_RULES: "Accuracy drop: +7.00 points"}
    try:
        for key, value in tags.items():
            client.set_model_version_tag("virnuc", number, key, value)
        version = client.get_model_version("virnuc", number)
        shown = "AGAINST THE GATE: outbreak (Accuracy drop: +7.00 points)"
        assert shown in describe_version(version)
        assert shown in about_version(version, download_scorer(registered, tmp_path)).caveats[0]
        assert check_champion()[0].outcome == "WARN" and shown in check_champion()[0].detail
        assert "**Promoted against the gate: outbreak.**" in update_card(registered)
    finally:
        for key in tags:
            client.delete_model_version_tag("virnuc", number, key)


def test_a_tracked_prediction_logs_its_summary(registered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
    (tmp_path / "a.fa").write_text("".join(f">s{n}\n{sequence}\n" for n, sequence in enumerate(SEQUENCES)))
    predict_stage.run(PredictSettings(input=("a.fa",), model=registered, threshold=0.3, track=True, out="calls"))
    (run,) = find_finished("predict", {"model": "models:/virnuc/1"})
    client = MlflowClient()
    logged = {file.path for folder in ("", "figures") for file in client.list_artifacts(run.info.run_id, folder)}
    assert {"summary.html", "summary.md", "sequences.tsv", "figures/histogram.svg"} <= logged
    assert run.data.metrics["predict/sequences"] == len(SEQUENCES)
    assert run.data.params["config/threshold"] == "0.3"
    assert "virnuc version 1" in (tmp_path / "calls" / "summary.html").read_text()


def test_a_champion_with_damaged_files_fails_its_check(registered):
    directory = Path(mlflow.artifacts.download_artifacts(registered)) / "artifacts" / "scorer"
    weights = directory / "classifier.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1] + b"\x01")
        assert [check.outcome for check in check_champion()] == ["PASS", "FAIL"]
    finally:
        weights.write_bytes(kept)


def test_a_scorer_that_was_not_registered_is_neither_healthy_nor_used_nor_served(registered, tmp_path, monkeypatch):
    path = Path(mlflow.artifacts.download_artifacts(registered)) / "artifacts" / "scorer" / "scorer.json"
    kept = path.read_text()
    try:
        path.write_text(kept.replace('"chunk_size": 300', '"chunk_size": 500'))
        assert "scorer.json is not the one" in check_champion()[-1].detail
        with pytest.raises(DataError, match=r"scorer\.json is not the one that was registered"):
            download_scorer(registered, tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
        with pytest.raises(DataError, match="not the scorer that was registered"):
            load_scoring_model(registered)
    finally:
        path.write_text(kept)


def test_an_alias_moved_by_hand_is_neither_healthy_nor_used(registered):
    client = MlflowClient()
    version = client.create_model_version("virnuc", client.get_model_version_by_alias("virnuc", "champion").source)
    client.set_registered_model_alias("virnuc", "champion", version.version)
    try:
        assert check_champion()[0].outcome == "FAIL" and "moved by hand" in check_champion()[0].detail
        with pytest.raises(DataError, match="moved by hand to version 2, but version 1 was promoted"):
            predict_stage.run(PredictSettings(input=("-",), model=registered, track=False))
    finally:
        client.delete_model_version("virnuc", version.version)
        client.set_registered_model_alias("virnuc", "champion", "1")


@pytest.fixture(scope="module")
def server(model):
    """MLflow's scoring server on the model, in this process; the demo's champion has one of its own."""
    return TestClient(scoring_server.init(model), raise_server_exceptions=False)


def post(server, body):
    answer = server.post("/invocations", json=body)
    return answer.status_code, answer.text


def test_over_http_it_answers_as_predict_does(server, predicted):
    status, answer = post(server, records(*SEQUENCES))
    assert status == 200
    answered = json.loads(answer, parse_constant=pytest.fail)  # NaN is no JSON
    assert_same(pd.DataFrame(answered["predictions"]), predicted)


def test_over_http_one_bad_row_does_not_lose_the_others(server):
    status, answer = post(server, records(SEQUENCES[0], None, "ACGTZ"))
    assert status == 200
    assert [row["status"] == "invalid" for row in json.loads(answer)["predictions"]] == [False, True, True]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"dataframe_records": [{"dna": "ACGT"}]}, "missing inputs"),
        ({"dataframe_records": [{"sequence": 7}]}, "sequence is no text"),
        (records(None), "sequence is null"),
        (records(""), "sequence is empty"),
        (records("ACGTZ"), "'Z' at base 5 is not an IUPAC base"),
        (records("A" * 10_000_001), "10,000,001 letters, the limit is 10,000,000"),
        ({"nonsense": 1}, "input"),
        ({**records(SEQUENCES[0]), "params": {"threshold": 7}}, "threshold 7.0: use a number from 0 to 1"),
    ],
)
def test_over_http_what_cannot_be_scored_is_a_400_with_the_reason(server, body, words):
    status, answer = post(server, body)
    assert status == 400 and words in answer
