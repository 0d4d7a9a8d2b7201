"""`extract` writes exactly the encoders' vectors, also after interruptions."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from Bio.Seq import Seq

from tests.shared.extraction import ESM, content, frame, settings
from tests.shared.golden import CASES
from virnuc.encoders import load_encoder
from virnuc.errors import DataError, EncoderError, IncompatibleCheckpointError, UsageError
from virnuc.features import extraction
from virnuc.features.extraction import extract
from virnuc.features.feature_set import FeatureSet
from virnuc.features.mixture import open_features
from virnuc.features.shards import read_shard, write_shard
from virnuc.sequences.chunking import chunk_starts
from virnuc.sequences.frames import CHUNK_SCHEMA, FRAME_SCHEMA, read_frames
from virnuc.settings import ExtractSettings, FeatureSource
from virnuc.storage.manifest import Manifest, describe_shard, read_manifest


@pytest.fixture(scope="module")
def finished(frames, tmp_path_factory):
    out = tmp_path_factory.mktemp("features")
    return out, extract(settings(frames, out))


def test_features_are_the_encoders_vectors_side_by_side(frames, finished):
    out, manifest = finished
    protein, dna = load_encoder(ESM), load_encoder("tetranucleotide")
    directory = out / f"tetranucleotide+{protein.name}"
    assert [shard.path for shard in manifest.shards] == [
        "viral_merged/output_00000_merged.pt",
        "viral_merged/output_00001_merged.pt",
        "bacteria_merged/output_00000_merged.pt",
        "plant_merged/output_00000_merged.pt",
        "plant_merged/output_00001_merged.pt",
    ]
    for shard, source in zip(manifest.shards, read_manifest(frames, "frames").shards, strict=True):
        read, table = read_shard(directory / shard.path), read_frames(frames / source.path)
        assert read.ids == table["frame_id"].to_pylist()
        assert read.label == int("viral" in shard.path)
        halves = [dna.embed(table["nucleotide"].to_pylist()), protein.embed(table["protein"].to_pylist())]
        torch.testing.assert_close(read.data, torch.cat(halves, dim=1), atol=1e-5, rtol=0)


def test_vectors_of_two_configurations_of_an_encoder_are_never_mixed(frames, tmp_path):
    weights = tmp_path / "encoder"
    shutil.copytree(CASES["esm2"].directory, weights)
    changed = settings(frames, tmp_path / "out", protein_encoder=f"esm:{weights}")
    extract(changed)
    config = json.loads((weights / "config.json").read_text())
    (weights / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1.0}))
    with pytest.raises(DataError, match="already made with config"):
        extract(changed)


def test_the_manifest_counts_and_names_the_encoders(finished):
    _, manifest = finished
    assert manifest.counts["in"] == {"frames": 150}
    assert manifest.counts["out"] == {"vectors": 150}
    assert manifest.counts["truncated"]["protein"] == {"sequences": 1, "letters": 76}
    assert (manifest.details["dna_dim"], manifest.details["protein_dim"]) == (256, 64)
    assert manifest.details["protein"]["weights"] == "local"
    assert len(manifest.details["protein"]["probe"]) == 8
    assert manifest.parameters["protein"]["weight_digest"] == load_encoder(ESM).provenance.weight_digest


def test_weights_of_a_directory_are_verified_before_their_first_use(finished):
    _, manifest = finished
    found = manifest.details["protein"]["verification"]
    assert (found["passed"], found["sequences"], found["device"]) == (True, 8, "cpu")
    assert found["summary"].startswith("8 sequences on cpu in fp32 against EsmModel of transformers 5")
    assert "verification" not in manifest.details["dna"]  # composition has no weights


def test_weights_are_verified_once_in_a_process(frames, tmp_path, monkeypatch):
    extract(settings(frames, tmp_path / "first"))
    monkeypatch.setattr(extraction, "verify", None)
    again = extract(settings(frames, tmp_path / "second"))
    assert again.details["protein"]["verification"]["passed"] is True


def test_nothing_is_embedded_by_weights_that_fail(frames, tmp_path):
    directory = tmp_path / "weights"
    shutil.copytree(CASES["esm2"].directory, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    with pytest.raises(EncoderError, match=r"failed its verification.*a norm has epsilon 0.001"):
        extract(settings(frames, tmp_path / "out", protein_encoder=f"esm:{directory}"))
    assert not list((tmp_path / "out").glob("esm-*/*/*.pt"))


def test_it_opens_as_a_feature_set(finished):
    out, manifest = finished
    features = FeatureSet.open(next(out.glob("tetranucleotide+*")))
    assert (len(features), features.dimension, features.digest) == (150, 320, manifest.digest)


def test_a_second_feature_set_shares_the_dna_half_and_touches_nothing(frames, finished):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    extract(settings(frames, out, protein_encoder="dipeptide"))
    assert (out / "tetranucleotide+dipeptide" / "manifest.json").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_again_is_the_same_manifest(frames, finished):
    out, manifest = finished
    assert extract(settings(frames, out)).digest == manifest.digest


def test_missing_shards_are_made_again_and_only_those(frames, finished, tmp_path):
    out, _ = finished
    extract(settings(frames, tmp_path))
    protein = load_encoder(ESM).name
    half = tmp_path / protein
    kept = (half / "viral/output_00000.pt").stat().st_mtime_ns
    for path in (half / "manifest.json", half / "plant/output_00001.pt"):
        path.unlink()
    seen = []
    extract(settings(frames, tmp_path), lambda what, done, total: seen.append((what, done, total)))
    assert next(entry for entry in seen if entry[0] == protein) == (protein, 115, 150)
    assert (half / "viral/output_00000.pt").stat().st_mtime_ns == kept
    assert content(tmp_path) == {path: data for path, data in content(out).items() if "dipeptide" not in str(path)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dna_encoder": "dipeptide"}, "does not read dna"),
        ({"protein_encoder": "tetranucleotide"}, "does not read protein"),
        ({"protein_encoder": "dipeptid"}, "did you mean 'dipeptide'"),
    ],
)
def test_wrong_encoders_are_usage_errors(frames, tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        extract(settings(frames, tmp_path, **changes))


def test_another_precision_needs_another_directory(frames, finished):
    out, _ = finished
    with pytest.raises(DataError, match="precision=fp32, not bf16"):
        extract(settings(frames, out, precision="bf16"))


def test_float16_halves_the_disk_and_is_never_mixed_with_float32(frames, tmp_path):
    encoders = {"protein_encoder": "dipeptide"}
    wide, narrow = (tmp_path / name for name in ("float32", "float16"))
    extract(settings(frames, wide, **encoders))
    manifest = extract(settings(frames, narrow, storage="float16", **encoders))
    assert manifest.parameters["dna"]["storage"] == manifest.details["storage"] == "float16"
    sizes = [sum(path.stat().st_size for path in out.rglob("*.pt")) for out in (wide, narrow)]
    assert 0.49 < sizes[1] / sizes[0] < 0.56  # ids take as much space as before
    first, second = (FeatureSet.open(out / "tetranucleotide+dipeptide") for out in (wide, narrow))
    rows = np.arange(150)
    assert torch.equal(second.gather(rows), first.gather(rows).half().float())
    with pytest.raises(DataError, match="storage=float16, not None"):
        extract(settings(frames, narrow, **encoders))
    with pytest.raises(IncompatibleCheckpointError, match=r"float32 and .* holds torch\.float16"):
        open_features(tuple(FeatureSource(str(f.directory), size) for f, size in ((first, 300), (second, 500))))


def test_a_value_that_float16_cannot_hold_is_an_error(tmp_path):
    with pytest.raises(DataError, match="beyond 65,504"):
        write_shard(tmp_path / "shard.pt", ["a"], torch.tensor([[1.0, 1e5]]), 1, torch.float16)
    assert not list(tmp_path.iterdir())


def test_an_unfinished_directory_is_not_finished_with_other_parameters(frames, tmp_path):
    extract(settings(frames, tmp_path))
    half = tmp_path / load_encoder(ESM).name
    (half / "manifest.json").unlink()
    (half / ".progress").mkdir()
    (half / ".progress" / "command.json").write_text("{}")
    with pytest.raises(DataError, match="begun with other parameters"):
        extract(settings(frames, tmp_path))


def test_a_changed_half_is_not_merged(frames, tmp_path):
    extract(settings(frames, tmp_path))
    (next(tmp_path.glob("tetranucleotide+*")) / "manifest.json").unlink()
    shard = tmp_path / "tetranucleotide/plant/output_00000.pt"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="changed since it was written"):
        extract(settings(frames, tmp_path))


def test_a_stop_codon_in_a_frame_names_the_frame(tmp_path):
    stopped = frame("viral", 0, 0, random.Random(0)) | {"protein": "MK*V"}
    path = tmp_path / "frames" / "viral-00000.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([stopped], schema=FRAME_SCHEMA), path)
    Manifest("frames", {"chunk_size": 300}, {}, {}, (describe_shard(path.parent, path, 1),)).write(path.parent)
    with pytest.raises(DataError, match=r"VIRAL0\.1_chunk_1F1"):
        extract(settings(path.parent, tmp_path / "out"))


def test_the_dna_half_has_one_identity_whatever_protein_encoder_stands_beside_it(frames, tmp_path):
    for protein in ("dipeptide", "esm2_tiny"):
        extract(settings(frames, tmp_path, protein_encoder=protein))
    one, other = (FeatureSet.open(tmp_path / f"tetranucleotide+{name}") for name in ("dipeptide", "esm2_tiny"))
    assert one.digest_of("dna") == other.digest_of("dna") != one.digest_of("protein")
    assert one.digest_of("protein") != other.digest_of("protein")
    assert one.digest_of("merged") == one.digest != other.digest


@pytest.mark.parametrize(
    ("name", "readings"), [("tetranucleotide", ("F1", "R1")), ("codon_phase", ("F1", "F2", "F3", "R1", "R2", "R3"))]
)
@pytest.mark.parametrize("shifted", [False, True])
def test_of_chunks_the_dna_is_embedded_alone_on_both_strands_in_each_phase_that_matters(
    tmp_path, name, readings, shifted
):
    """Chunks of three records, one of them incomplete; chunks halfway between two neighbours are added."""
    generator, source = random.Random(1), tmp_path / "chunks"
    source.mkdir()
    chunks, expected = [], {}
    for record, length, missing in (("A.1", 333, 4), ("B.1", 50, None), ("C.1", 101, None)):
        dna = "".join(generator.choices("ACGT", k=length))
        starts = {row + 1: int(start) for row, start in enumerate(chunk_starts(length, 50)) if row + 1 != missing}
        for index, start in starts.items():
            chunk = {"record": record, "chunk_id": f"{record}_chunk_{index}", "nucleotide": dna[start : start + 50]}
            blank = {column: "" for column in CHUNK_SCHEMA.names}
            chunks.append(blank | chunk | {"label": 1, "chunk_index": index, "chunk_start": start})
            expected[chunk["chunk_id"]] = chunk["nucleotide"]
            if shifted and index + 1 in starts:
                middle = (start + starts[index + 1]) // 2
                expected[f"{chunk['chunk_id']}.5"] = dna[middle : middle + 50]
    assert len(expected) == (6 + 1 + 3) + shifted * (4 + 0 + 2)
    pq.write_table(pa.Table.from_pylist(chunks, schema=CHUNK_SCHEMA), source / "viral-00000.parquet")
    shards = (describe_shard(source, source / "viral-00000.parquet", len(chunks)),)
    Manifest("chunks", {"chunk_size": 50}, {}, {}, shards).write(source)
    wanted = ExtractSettings(frames=str(source), dna_encoder=name, shifted=shifted, out=str(tmp_path / "features"))
    manifest = extract(wanted)
    features = FeatureSet.open(tmp_path / "features" / f"{name}+none")
    assert features.of_chunks and features.protein_dim == 0
    assert manifest.counts["out"]["vectors"] == len(features) == len(expected) * len(readings)
    encoder = load_encoder(name)
    for reading in readings:
        strands = [str(Seq(dna).reverse_complement()) if reading[0] == "R" else dna for dna in expected.values()]
        rows = features.locate([f"{chunk}{reading}" for chunk in expected])
        assert torch.equal(features.gather(rows), encoder.embed([strand[int(reading[1]) - 1 :] for strand in strands]))
    with pytest.raises(DataError, match="shifted"):
        extract(replace(wanted, shifted=not shifted))
