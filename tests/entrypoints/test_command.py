"""Wrong input to the commands gives an exit code and one line that says what to do."""

import contextlib
import gzip
import io
import re
import shutil
import signal
import time
from importlib import import_module

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from tests.shared.processes import FORK, forked
from tests.shared.samples import without_mmseqs
from virnuc.sequences.frames import frame_shards

pytestmark = pytest.mark.e2e


def start(stage, directory, *arguments):
    """Run a command in a process of its own; return that and the pipe that brings its exit code and stderr."""
    ended, told = FORK.Pipe(duplex=False)
    return forked(lambda: told.send(run(stage, directory, *arguments))), ended


def run(stage, directory, *arguments, stderr=None):
    """Run a command in this process; return its exit code and its stderr, or None if that is given."""
    errors, handler = stderr or io.StringIO(), signal.getsignal(signal.SIGTERM)
    command = getattr(import_module(f"entrypoints.{stage}"), stage).command
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        patch.chdir(directory)
        mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
        patch.setenv("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
        command.main(list(map(str, arguments)))
    mlflow.set_tracking_uri(None)
    signal.signal(signal.SIGTERM, handler)
    return ended.value.code, None if stderr else errors.getvalue()


def refused(stage, directory, *arguments):
    code, errors = run(stage, directory, *arguments)
    lines = [line for line in errors.splitlines() if line.startswith(f"{stage}: ")]
    assert "Traceback" not in errors
    assert len(lines) == 1, errors
    return code, lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_store):
    directory = tmp_path_factory.mktemp("commands")
    shutil.copy(empty_store, directory / "mlflow.db")
    return directory


def test_missing_and_empty_directories(place):
    assert refused("prepare", place, "--source", "nothing") == (
        2,
        "prepare: nothing: no such directory; --source needs one with files like viral.1.genomic.gbff.gz",
    )
    (place / "empty").mkdir()
    code, line = refused("prepare", place, "--source", "empty")
    assert code == 4
    assert "no sequence files" in line
    code, line = refused("split", place, "--source", "empty")
    assert code == 4


def test_a_genbank_file_cut_in_half(place, genomes):
    source = place / "cut"
    source.mkdir()
    text = gzip.decompress((genomes / "plant.1.genomic.gbff.gz").read_bytes())
    half = text[: len(text) // 2]
    (source / "plant.gbff").write_bytes(half)
    code, line = refused("prepare", place, "--source", source, "--out", "cut_frames")
    assert code == 4
    record = len(re.findall(rb"^LOCUS", half, re.MULTILINE))
    assert f"plant.gbff, record {record}, line " in line


def test_a_wrong_encoder_name_is_answered_with_the_nearest_right_one(place, frames):
    code, line = refused("extract", place, "--frames", frames, "--protein-encoder", "fastesm65O")
    assert code == 2
    assert "did you mean 'fastesm650'?" in line


def test_an_out_that_is_a_file_is_named(place, genomes):
    (place / "file").touch()
    for out in ("file", "file/below"):
        code, line = refused("prepare", place, "--source", genomes, "--out", out)
        assert (code, line) == (1, f"prepare: {out}: a file is where a directory is needed; give another --out")


@pytest.mark.parametrize(
    ("stage", "arguments", "expected"),
    [
        ("train", ["--epochs", "0"], "--epochs 0: use a number of at least 1"),
        ("train", ["--companion", "models:/x_dna/1", "--modality", "dna"], "needs --modality merged"),
        ("evaluate", ["--chunks", "-1"], "--chunks -1: use a number of at least 0"),
        ("train", ["--lr", "-1"], "--lr -1.0: use a number above 0"),
        ("split", ["--test-fraction", "1.5"], "--test-fraction 1.5: use a number above 0 and below 1"),
        ("promote", [], "give either --candidate"),
        ("evaluate", ["--model", "virnuc"], "write models:/NAME@ALIAS"),
        ("benchmark", ["--precision", "fp32,bf61"], "did you mean 'bf16'?"),
        ("benchmark", ["--precision", "fp32,bf16,fp16"], "give one, or BASELINE,CANDIDATE"),
        ("train", ["--features", "a@b"], "the chunk size in bp must follow the @"),
        ("train", ["--epochs", "many"], "'many' is not a valid integer"),
        ("train", ["--register", "perhaps"], "'perhaps' is not a valid boolean"),
        ("train", ["--epoch", "1"], "--epochs"),
        ("compare", ["--candidate", ""], "name one or several versions"),
        ("benchmark", ["--weights", "nonsense"], "write NAME=VALUE, several joined by commas"),
    ],
)
def test_wrong_values(place, stage, arguments, expected):
    code, line = refused(stage, place, *arguments)
    assert code == 2
    assert expected in line


def small_source(genomes, directory):
    """A few annotated genomes of both classes."""
    directory.mkdir()
    shutil.copy(genomes / "plant.1.genomic.gbff.gz", directory)
    text = gzip.decompress((genomes / "viral.1.genomic.gbff.gz").read_bytes()).decode()
    (directory / "viral.gbff").write_text("//\n".join(text.split("//\n")[3:9]) + "//\n")
    return directory


def test_features_and_a_split_that_do_not_belong_together(place, genomes, tmp_path):
    source, features = small_source(genomes, tmp_path / "source"), tmp_path / "features"
    encoders = ["--dna-encoder", "tetranucleotide", "--protein-encoder", "dipeptide"]
    for stage, arguments in (
        ("prepare", ["--source", source, "--out", tmp_path / "long"]),
        ("prepare", ["--source", source, "--chunk-size", 150, "--out", tmp_path / "short"]),
        ("split", ["--source", tmp_path / "long", "--unit", "frame", "--out", tmp_path / "split"]),
        ("extract", ["--frames", tmp_path / "short", *encoders, "--out", features]),
    ):
        with without_mmseqs():
            code, errors = run(stage, place, *arguments)
        assert code == 0, errors
    code, line = refused(
        "train", place, "--features", features / "+".join(encoders[1::2]), "--split", tmp_path / "split"
    )
    assert code == 4
    assert "not made from the same frames" in line


def test_sigterm_ends_the_run_as_killed(place, genomes, tmp_path):
    command = ["--source", genomes, "--out", tmp_path / "frames"]
    process, ended = start("prepare", place, *command)
    while process.is_alive() and not any((tmp_path / "frames").rglob("*.parquet*")):  # then a run is open
        time.sleep(0.005)
    process.terminate()
    assert ended.poll(60)
    code, errors = ended.recv()
    process.join()
    assert code == 1
    assert "prepare: stopped; give the same command again to resume" in errors
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("virnuc")
    newest = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0]
    assert newest.info.status == "KILLED"
    assert run("prepare", place, *command)[0] == 0
    assert frame_shards(tmp_path / "frames")


def test_two_processes_make_a_fresh_store_at_once(tmp_path, genomes):
    arguments = ["--source", small_source(genomes, tmp_path / "source")]
    processes = [start("prepare", tmp_path, *arguments, "--out", tmp_path / name) for name in ("a", "b")]
    for process, ended in processes:
        assert ended.poll(120)
        assert ended.recv()[0] == 0
        process.join()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("virnuc")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FINISHED"] * 2
