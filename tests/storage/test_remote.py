"""Frames, features and splits on an object store, a real S3 server on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from entrypoints.prepare import prepare as prepare_stage
from virnuc.errors import DataError, UsageError, VirnucError
from virnuc.features.extraction import extract
from virnuc.features.feature_set import FeatureSet
from virnuc.sequences.preparing import prepare
from virnuc.settings import ExtractSettings, FeatureSource, PrepareSettings, TrainSettings
from virnuc.storage.remote import on_this_machine


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """Return a client of a server with the bucket `lab`, which pyarrow finds by environment variables."""
    moto = pytest.importorskip("moto.server", reason="no S3 server is installed: pip install 'virnuc[scale]'")
    import boto3

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"KEY_ID": "tester", "KEY": "secret"}.items():
        monkeypatch.setenv(f"AWS_{'ACCESS' if name == 'KEY_ID' else 'SECRET_ACCESS'}_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)
    client = boto3.client("s3")
    client.create_bucket(Bucket="lab")
    yield client
    server.stop()


def run(stage, settings):
    with on_this_machine(settings) as local:
        return stage(local)


def keys(client):
    return [entry["Key"] for entry in client.list_objects_v2(Bucket="lab").get("Contents", [])]


def test_stages_on_a_store_give_what_they_give_here_and_another_machine_goes_on_with_it(s3, store, genomes, tmp_path):
    for group in ("archaea", "viral"):
        name = f"{group}.1.genomic.gbff.gz"
        s3.upload_file(str(genomes / name), "lab", f"refseq/{name}")
    settings = PrepareSettings(source="s3://lab/refseq", out="s3://lab/frames")
    manifest = prepare_stage.run(settings)
    assert manifest == prepare(PrepareSettings(source=str(tmp_path / "data/staging/s3/lab/refseq"), out="here"))
    here = {f"frames/{path.relative_to('here')}" for path in Path("here").rglob("*") if path.is_file()}
    assert {key for key in keys(s3) if key.startswith("frames/")} == {key for key in here if ".lock" not in key}
    shutil.rmtree("data")  # as on another machine
    encoders = {"dna_encoder": "tetranucleotide", "protein_encoder": "dipeptide"}
    done = run(extract, ExtractSettings(frames="s3://lab/frames", out="s3://lab/features", **encoders))
    assert done.digest == extract(ExtractSettings(frames="here", out="features", **encoders)).digest
    shutil.rmtree("data")
    wanted = TrainSettings(features=(FeatureSource("s3://lab/features/tetranucleotide+dipeptide", 300),))
    with on_this_machine(wanted) as local:
        assert FeatureSet.open(Path(local.features[0].directory)).digest == done.digest
        assert local.features[0].chunk_size == 300
    put_before = s3.head_object(Bucket="lab", Key="frames/manifest.json")["LastModified"]
    assert run(prepare, settings) == manifest  # fetched, and not made again
    assert s3.head_object(Bucket="lab", Key="frames/manifest.json")["LastModified"] == put_before


def test_what_is_unfinished_changed_or_another_is_not_taken_for_the_result(s3, frames, tmp_path):
    shard = next(frames.glob("archaea-*.parquet"))
    s3.upload_file(str(shard), "lab", f"broken/{shard.name}")  # a killed upload: the manifest never came
    with on_this_machine(PrepareSettings(source=".", out="s3://lab/broken")) as local:
        assert not list(Path(local.out).iterdir())
        shutil.copytree(frames, local.out, dirs_exist_ok=True)
    assert "broken/manifest.json" in keys(s3)
    s3.put_object(Bucket="lab", Key=f"broken/{shard.name}", Body=b"another")
    shutil.rmtree("data")
    with pytest.raises(DataError, match=f"{shard.name}: changed since it was written"):
        run(extract, ExtractSettings(frames="s3://lab/broken"))
    assert not Path("data/staging/s3/lab/broken/manifest.json").exists()
    s3.put_object(Bucket="lab", Key="other/manifest.json", Body=b"{}")
    with pytest.raises(DataError):
        run(prepare, PrepareSettings(source=str(frames), out="s3://lab/other"))


def test_places_that_cannot_be_used_are_named(s3, monkeypatch):
    with pytest.raises(UsageError, match="s3://lab/none: there is nothing at this URL"):
        run(extract, ExtractSettings(frames="s3://lab/none"))
    with pytest.raises(UsageError, match="--out s3://lab/models: give a local path"):
        run(extract, TrainSettings(out="s3://lab/models"))
    with pytest.raises(VirnucError, match="s3://nobody/frames: "):
        run(extract, ExtractSettings(frames="s3://nobody/frames"))
