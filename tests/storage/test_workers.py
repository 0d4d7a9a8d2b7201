"""Workers on a local Ray cluster give the same bytes as processes on this machine."""

from __future__ import annotations

import os
import random
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

import virnuc
from tests.prediction.conftest import checkpoint, packed  # noqa: F401
from tests.shared.figures import undrawn
from virnuc.errors import DataError, ParseError, UsageError
from virnuc.features.workers import extract_together
from virnuc.prediction import prediction
from virnuc.prediction.chunks import cut_chunks
from virnuc.prediction.prediction import Helpers
from virnuc.prediction.scorer import load_scorer
from virnuc.sequences.preparing import prepare
from virnuc.sequences.sampling import sample_frames
from virnuc.settings import ExtractSettings, PrepareSettings
from virnuc.storage import cluster
from virnuc.storage.cluster import run_on_cluster
from virnuc.storage.workers import find_workers

pytestmark = pytest.mark.e2e


def tell(first, send):
    send(first)
    send((os.getpid(), str(Path.cwd()), virnuc.__file__))


def kill_itself_once(note, send):
    if not note.exists():
        note.write_text("begun")
        os.kill(os.getpid(), signal.SIGKILL)
    send("done")


def fail(send):
    raise DataError("viral.1.gbff: damaged")


def test_each_call_has_a_process_of_its_own_where_paths_and_code_are_the_drivers(ray):
    heard = []
    ended = run_on_cluster(
        {"a": partial(tell, "first"), "b": partial(tell, "other")}, lambda *said: heard.append(said), cpus=1, gpus=0
    )
    assert ended in ("a: 0, b: 0", "b: 0, a: 0")
    assert next(message for name, message in heard if name == "a") == "first"
    places = [message for _, message in heard if isinstance(message, tuple)]
    assert len({pid for pid, _, _ in places} | {os.getpid()}) == 3
    assert {place[1:] for place in places} == {(str(Path.cwd()), virnuc.__file__)}


def test_a_killed_worker_is_started_again_and_an_error_ends_all(ray, tmp_path):
    heard = []
    calls = {"a": partial(kill_itself_once, tmp_path / "note")}
    assert run_on_cluster(calls, lambda *said: heard.append(said), cpus=1, gpus=0) == "a: 0"
    assert heard == [("a", "done")]
    with pytest.raises(DataError, match=r"viral\.1\.gbff"):
        run_on_cluster({"a": fail}, lambda *said: None, cpus=1, gpus=0)


def test_cores_are_shared_among_the_workers(ray):
    assert find_workers("ray", 0, "cpu").devices == ("cpu", "cpu")
    assert find_workers("ray", 1, "cpu").threads == 2
    assert find_workers("ray", 3, "cpu").threads == 1
    assert find_workers("ray", 3, "cpu").at_most(2).devices == ("cpu", "cpu")
    for device in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match=r"cluster has no GPU|Ray chooses"):
            find_workers("ray", 1, device)


def content(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def kill_one(killed):
    """Kill one Ray worker, once."""
    for process in Path("/proc").glob("[0-9]*"):
        if not killed and (process / "cmdline").read_bytes().startswith(b"ray::worker 0 on cpu"):
            os.kill(int(process.name), signal.SIGKILL)
            killed.append(process.name)


def test_extract_gives_the_same_bytes_when_a_worker_is_killed(ray, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_WAIT", 0.05)  # so that a worker is killed in its work
    few = tmp_path / "frames"
    sample_frames(frames, few, 400, seed=1)
    encoders = {"dna_encoder": "tetranucleotide", "protein_encoder": "esm2_tiny", "device": "cpu"}
    extract_together(ExtractSettings(frames=str(few), out=str(tmp_path / "local"), **encoders))
    settings = ExtractSettings(frames=str(few), out=str(tmp_path / "ray"), engine="ray", workers=2, **encoders)
    killed, told = [], []
    manifest = extract_together(settings, lambda *step: (kill_one(killed), told.append(step)))
    assert killed and manifest.rows == 400
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    last = {what: (done, total) for what, done, total in told}
    assert last == dict.fromkeys(("tetranucleotide", "esm2_tiny", "merge"), (400, 400))


def test_prepare_gives_the_same_bytes_and_the_same_error(ray, genomes, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("archaea", "viral"):
        (source / f"{name}.1.gbff.gz").symlink_to(genomes / f"{name}.1.genomic.gbff.gz")
    for engine in ("local", "ray"):
        prepare(PrepareSettings(source=str(source), out=str(tmp_path / engine), engine=engine))
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    (source / "viral.2.fa").write_text(">a\nAC!GT\n")
    with pytest.raises(ParseError, match=r"viral\.2\.fa, record a: '!' at base 3 is not an IUPAC base"):
        prepare(PrepareSettings(source=str(source), out=str(tmp_path / "hostile"), engine="ray"))


def load_and_note(packed, notes, device):  # noqa: F811
    """Load a scorer, and note what is loaded with it in this worker."""
    scorer = load_scorer(packed, None, device)
    (notes / str(os.getpid())).write_text(" ".join(sys.modules))
    return scorer


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_predict_gives_the_same_calls_whoever_scores_them(request, engine, packed, tmp_path, monkeypatch):  # noqa: F811
    if engine == "ray":
        request.getfixturevalue("ray")
    undrawn(monkeypatch)
    monkeypatch.setattr(prediction, "CHUNKS_AT_ONCE", 16)
    monkeypatch.setattr(prediction, "BATCHES_IN_PART", 2)
    draw = random.Random(5)
    reads = [f">read_{n}\n{''.join(draw.choices('ACGT', k=draw.choice((0, 90, 300, 1500))))}\n" for n in range(150)]
    source = tmp_path / "reads.fa"
    source.write_text("".join(reads))
    scorer = load_scorer(packed)
    notes = tmp_path / "notes"
    notes.mkdir()
    together = Helpers(find_workers(engine, 2, "cpu"), partial(load_and_note, packed, notes))
    told = []
    prediction.predict([str(source)], scorer, "m", tmp_path / "alone")
    prediction.predict(
        [str(source)], scorer, "m", tmp_path / "together", helpers=together, progress=lambda *step: told.append(step)
    )
    assert content(tmp_path / "together") == content(tmp_path / "alone")
    loaded = {name for note in notes.iterdir() for name in note.read_text().split()}
    assert "torch" in loaded and not {"sklearn", "matplotlib", "scipy.stats", "mlflow"} & loaded
    assert told[-1][1] == sum(len(chunk) for read in reads for _, chunk in cut_chunks(read.split("\n")[1], 300))
    with pytest.raises(UsageError, match="standard input can be read only once"):
        prediction.predict(["-"], scorer, "m", tmp_path / "stream", helpers=together)
