"""`--config`: values, their precedence, and repeating a run from the file it recorded."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from entrypoints.cli import main
from entrypoints.command import stage
from tests.shared import PROJECT
from tests.shared.samples import sample_frames, write_features
from virnuc.errors import UsageError
from virnuc.settings import PIPELINE_STAGES, STAGES, BenchmarkSettings, FeatureSource, MainSettings, TrainSettings
from virnuc.tracking import CONFIG, download, find_runs


def settings_of(name, *arguments):
    """Return the settings that a stage's command line gives."""
    given = []

    def body(settings):
        given.append(settings)

    body.__name__ = name
    done = CliRunner().invoke(stage(STAGES[name], tracked=False)(body).command, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return given[0]


def refusal(name, *arguments):
    done = CliRunner().invoke(main, [name, *map(str, arguments)])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return path

    return write


def test_values_of_each_type(write):
    path = write(
        "features: [long@300, short]\nweights: {esm2_8m: /models/8m}\nlr: 2e-3\nepochs: 7\nregister: no\nresume: 0123"
    )
    assert settings_of("train", "--config", path) == TrainSettings(
        features=(FeatureSource("long", 300), FeatureSource("short")),
        weights={"esm2_8m": "/models/8m"},
        lr=0.002,
        epochs=7,
        register=False,
        resume="0123",
    )


def test_command_line_then_section_then_top(write):
    path = write("lr: 0.1\nepochs: 5\nseed: 1\ntrain: {lr: 0.2, epochs: 6}\nevaluate: {seed: 3}")
    found = settings_of("train", "--lr=0.3", "--config", path)
    assert (found.lr, found.epochs, found.seed) == (0.3, 6, 1)
    assert settings_of("evaluate", "--config", path).seed == 3


def test_a_pipeline_hands_on_what_is_not_its_own(write):
    path = write("hidden_dim: 64\nlr: 0.1\ntrain: {lr: 0.2, dropout: 0.1}\nbenchmark: {precision: [fp32, bf16]}")
    found = settings_of("pipeline", "--config", path)
    train = found.of_stage(TrainSettings)
    assert (found.lr, train.lr, train.hidden_dim, train.dropout) == (0.1, 0.2, 64, 0.1)
    assert found.of_stage(BenchmarkSettings).precision == ("fp32", "bf16")
    assert settings_of("pipeline", f"--overrides={found.plain()['overrides']}").overrides == found.overrides
    found = settings_of("pipeline", "--config", path, "--lr=0.3")
    assert found.of_stage(TrainSettings) == TrainSettings(lr=0.3, hidden_dim=64, dropout=0.1)


def test_the_demos_file_and_mlflow_run_give_every_stage_the_same_settings():
    main = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]["main"]
    command = main["command"].format(**{name: one["default"] for name, one in main["parameters"].items()})
    by_mlflow = settings_of("main", *shlex.split(command.partition("entrypoints.main")[2]))
    demo = settings_of("pipeline", "--config", PROJECT / "examples" / "demo.yaml")
    alone = {"overrides", "warmup"}  # they are sections of stages in the file, whose settings are compared next
    assert {k: v for k, v in vars(demo).items() if k not in alone} == {
        k: v for k, v in vars(by_mlflow).items() if k not in alone
    }
    for name, one in PIPELINE_STAGES.items():
        if name != "promote":  # its settings do not exist before a candidate is trained
            assert demo.of_stage(one) == by_mlflow.of_stage(one)


@pytest.mark.parametrize(
    ("stage_name", "text", "words"),
    [
        ("train", "hiden_dim: 3", "no parameter or stage in .* called 'hiden_dim'; did you mean 'hidden_dim'?"),
        ("train", "train: {epoch: 3}", "no parameter of train in .* called 'epoch'; did you mean 'epochs'?"),
        ("pipeline", "trian: {epochs: 3}", "no parameter or stage in .* called 'trian'; did you mean 'train'?"),
        ("pipeline", "train: {features: x}", "train.features: the pipeline sets it itself"),
        ("pipeline", "train: {epochs: many}", "--epochs 'many': not a value of type int"),
        ("pipeline", "train: {epochs: 0}", "--epochs 0: use a number of at least 1"),
        ("train", "epochs: many", "'many' is not a valid integer"),
        ("train", "epochs: [1, 2]", "epochs takes one value"),
        ("train", "- epochs", "write NAME: VALUE on each line"),
        ("train", "epochs: [", "not readable as YAML"),
    ],
)
def test_a_wrong_file_is_answered_with_one_line(write, stage_name, text, words):
    path = write(text)
    assert re.search(words, refusal(stage_name, "--config", path))


def test_overrides_on_the_command_line():
    found = settings_of("pipeline", "--overrides=train.hidden_dim=64,evaluate.shuffled=no")
    assert found.overrides == {"train.hidden_dim": "64", "evaluate.shuffled": "no"}
    assert found.of_stage(TrainSettings).hidden_dim == 64
    assert "did you mean 'train'" in refusal("pipeline", "--overrides=trian.epochs=3")
    assert "did you mean 'epochs'" in refusal("pipeline", "--overrides=train.epoch=3")


def test_a_run_is_made_again_from_the_file_it_kept(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features = write_features(tmp_path / "features", *sample_frames())
    arguments = ["split", f"--source={features}", "--test-fraction=0.25", "--seed=7"]
    assert CliRunner().invoke(main, [*arguments, "--out=first"]).exit_code == 0
    (run,) = find_runs("split", {})
    path = download(run, CONFIG, tmp_path)
    kept = yaml.safe_load(path.read_text())
    assert kept == STAGES["split"](source=str(features), test_fraction=0.25, seed=7, out="first").document()
    assert CliRunner().invoke(main, ["split", "--config", str(path), "--out=second"]).exit_code == 0
    again = find_runs("split", {})[0]
    same = [{**one.data.params, "config/out": ""} for one in (run, again)]
    assert same[0] == same[1]
    assert run.data.tags["virnuc.split_digest"] == again.data.tags["virnuc.split_digest"]


def test_an_experiment_is_named_after_what_decides_its_data():
    usual = MainSettings()
    assert usual.home == Path("data/genomes-500bp-cds-genome-seed42")
    assert MainSettings(source="/data/refseq", unit="cluster", data="x").home == Path(
        "x/refseq-500bp-cds-cluster-seed42"
    )
    assert MainSettings(experiment="mine", chunk_size=300).home == Path("data/mine")
    same = {
        "epochs": 3,
        "candidate": "dipeptide",
        "device": "cpu",
        "batch_tokens": 1,
        "overrides": {"train.gamma": "1"},
    }
    assert MainSettings(**same).home == usual.home
    others = [
        {"balance": True},
        {"test_fraction": 0.2},
        {"precision": "bf16"},
        {"overrides": {"split.identity": "0.9"}},
    ]
    assert len({MainSettings(**one).home for one in [{}, *others]}) == 5
    for name in ("latest", "../up", "/tmp/x", "-x"):
        with pytest.raises(UsageError, match="--experiment"):
            MainSettings(experiment=name)
