import gzip
import json
import multiprocessing
import time

import numpy as np
import pandas as pd
import pytest
from Bio import SeqIO
from Bio.Seq import Seq

from tests.shared.preparing import run, table
from virnuc.errors import DataError, ParseError, UsageError
from virnuc.sequences.frames import (
    CHUNK_SCHEMA,
    CHUNKS,
    FRAME_SCHEMA,
    chunk_shards,
    frame_shards,
    read_chunks,
    read_frames,
)
from virnuc.storage.manifest import read_manifest, verified_manifest


def naive_chunks(source, size, only=None):
    """Return id, start, DNA, open frames and annotated frames of each chunk, computed slowly by definition."""
    for path in [only] if only else sorted(source.iterdir()):
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as stream:
            for record in SeqIO.parse(stream, "fasta" if path.suffix == ".fa" else "genbank"):
                proteins = [f.qualifiers["translation"][0] for f in record.features if "translation" in f.qualifiers]
                dna = str(record.seq).upper()
                count = -(-len(dna) // size)
                for number in range(count):
                    start = number * (len(dna) - size) // (count - 1) if count > 1 else 0
                    chunk = dna[start : start + size]
                    if set(chunk) - set("ACGT"):
                        continue
                    opened = []
                    for strand, letters in (("F", chunk), ("R", str(Seq(chunk).reverse_complement()))):
                        for offset in range(3):
                            nucleotide = letters[offset : offset + (len(chunk) - offset) // 3 * 3]
                            protein = str(Seq(nucleotide).translate())
                            if protein and "*" not in protein:
                                opened.append(
                                    (f"{record.id}_chunk_{number + 1}{strand}{offset + 1}", nucleotide, protein)
                                )
                    coding = [frame for frame in opened if any(frame[2] in known for known in proteins)]
                    yield f"{record.id}_chunk_{number + 1}", start, chunk, opened, coding


def test_frames_are_those_of_the_naive_definition(small, tmp_path):
    manifest = run(small, tmp_path / "frames")
    found = table(tmp_path / "frames")
    naive = [frame for *_, coding in naive_chunks(small, 300) for frame in coding]
    assert [tuple(row) for row in found[["frame_id", "nucleotide", "protein"]].to_numpy()] == naive
    assert manifest.counts["out"]["frames"] == len(found) > 100
    assert list(found.columns) == FRAME_SCHEMA.names
    assert set(found.loc[found["group"] == "viral", "label"]) == {1}
    assert set(found.loc[found["group"] != "viral", "label"]) == {0}


def kept_chunks(directory):
    return pd.concat([read_chunks(path).to_pandas() for path in chunk_shards(directory)], ignore_index=True)


@pytest.mark.parametrize("evidence", ["cds", "open"])
def test_all_chunks_are_kept_with_the_reason_why_some_have_no_frame(small, tmp_path, evidence):
    manifest = run(small, tmp_path / "frames", evidence=evidence)
    found = kept_chunks(tmp_path / "frames")
    naive = [
        (name, start, dna, "covered" if (coding if evidence == "cds" else opened) else missing)
        for name, start, dna, opened, coding in naive_chunks(small, 300)
        for missing in ["no_cds_evidence" if opened else "no_open_frame"]
    ]
    kept = found[["chunk_id", "chunk_start", "nucleotide", "reason"]].to_numpy()
    assert [tuple(row) for row in kept] == naive
    assert list(found.columns) == CHUNK_SCHEMA.names
    counts = read_manifest(tmp_path / "frames" / CHUNKS, "chunks").counts
    for reason in ("no_open_frame", "no_cds_evidence"):
        wanted = manifest.counts["dropped"][f"chunks_{reason}"]
        assert (found["reason"] == reason).sum() == counts["out"][reason] == wanted
        assert wanted > 10 or evidence == "open"
    described = pd.read_parquet(tmp_path / "frames" / "genomes.parquet").set_index("record")
    for name in ("genome", "organism", "lineage", "group"):
        assert found[name].tolist() == described.loc[found["record"], name].tolist()
    assert (found["label"] == (found["group"] == "viral")).all()
    covered = found.loc[found["reason"] == "covered", "chunk_id"]
    assert set(covered) == set(table(tmp_path / "frames")["frame_id"].str[:-2])
    assert len(covered) == counts["out"]["covered"] == manifest.counts["out"]["chunks"]


def test_the_frames_identity_does_not_depend_on_the_chunks_beside_them(small, tmp_path):
    whole = run(small, tmp_path / "frames")
    assert all(CHUNKS not in shard.path for shard in whole.shards)
    (tmp_path / "frames" / CHUNKS).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="chunks/ is missing"):
        run(small, tmp_path / "frames")
    run(small, tmp_path / "open", evidence="open")
    (tmp_path / "open" / CHUNKS).rename(tmp_path / "frames" / CHUNKS)
    with pytest.raises(DataError, match="not written together with the frames"):
        chunk_shards(tmp_path / "frames")


def test_every_chunk_is_counted_once(frames, genomes):
    counts = read_manifest(frames, "frames").counts
    dropped = sum(count for reason, count in counts["dropped"].items() if reason.startswith("chunks_"))
    assert counts["in"]["chunks"] == counts["out"]["chunks"] + dropped
    records = pd.read_parquet(frames / "genomes.parquet")
    parts = records[["ambiguous_bases", "no_open_frame", "no_cds_evidence", "covered"]].sum(axis=1)
    assert (records["chunks"] == parts).all()
    sources = pd.read_csv(genomes / "SOURCES.tsv", sep="\t")
    assert len(records) == counts["in"]["records"] == len(sources)
    assert records["genome"].nunique() == counts["in"]["genomes"] == sources["genome"].nunique()


def test_a_finished_directory_is_reused_and_other_parameters_are_refused(small, tmp_path):
    out = tmp_path / "frames"
    first = run(small, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run(small, out).digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(DataError, match="chunk_size=300, not 500"):
        run(small, out, chunk_size=500)


def test_killed_at_any_moment_it_finishes_with_the_same_bytes(small, tmp_path):
    whole = run(small, tmp_path / "whole", balance=True)
    out = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(
        target=run, args=(small, out), kwargs={"balance": True, "workers": 2}
    )
    process.start()
    while process.is_alive() and not list(out.rglob("*.parquet")):
        time.sleep(0.002)
    process.kill()
    process.join()
    resumed = run(small, out, balance=True)
    assert resumed == whole  # the chunks without a frame too: their digest is among the details
    for directory in (out, tmp_path / "whole"):
        verified_manifest(directory / CHUNKS, "chunks")
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "whole").iterdir())


@pytest.mark.e2e
def test_several_workers_give_the_same_bytes_and_the_same_error(small, tmp_path):
    for name in ("one", "two"):
        run(small, tmp_path / name, evidence="open", workers=1 + (name == "two"))
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*") if path.is_file()}
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    (small / "viral.2.fa").write_text(">a\nAC!GT\n")
    with pytest.raises(ParseError, match=r"viral\.2\.fa, record a: '!' at base 3 is not an IUPAC base"):
        run(small, tmp_path / "hostile", workers=2)


def test_identical_frames_are_kept_once_and_not_at_all_if_both_classes_have_them(small, tmp_path):
    alone = run(small, tmp_path / "alone", evidence="open")
    before = table(tmp_path / "alone")
    viral, other = (before[before["label"] == label]["nucleotide"].iloc[0] for label in (1, 0))
    new = "".join(np.random.default_rng(0).choice(list("GC"), 300))
    (small / "plant.1.fa").write_text(f">own\n{new}\n>theirs\n{viral}\n")
    (small / "viral.9.fa").write_text(f">again\n{viral}\n>copy\n{new[:-1]}\n>twice\n{new[:-1]}\n")
    (small / "zoo.fa").write_text(f">known\n{other}\n")
    whole = run(small, tmp_path / "frames", evidence="open")
    everything = [
        (label, frame)
        for path in sorted(small.iterdir())
        for label in [int(path.name.startswith("viral"))]
        for *_, opened, _ in naive_chunks(small, 300, path)
        for _, frame, _ in opened
    ]
    classes = {frame: {label for label, same in everything if same == frame} for _, frame in everything}
    expected = list(dict.fromkeys(frame for _, frame in everything if len(classes[frame]) == 1))
    found = table(tmp_path / "frames")
    assert sorted(found["nucleotide"]) == sorted(expected)
    assert set(found["record"]) & {"own", "theirs", "again", "copy", "twice", "known"} == {"own", "copy"}
    dropped = whole.counts["dropped"]
    assert dropped["frames_in_both_classes"] == sum(len(classes[frame]) == 2 for _, frame in everything) > 2
    assert dropped["frames_identical"] == len(everything) - dropped["frames_in_both_classes"] - len(expected) > 2
    assert not {"frames_identical", "frames_in_both_classes"} & set(alone.counts["dropped"])


def test_records_that_are_cut_in_pieces_give_the_same_bytes(small, tmp_path, monkeypatch):
    whole = run(small, tmp_path / "whole")
    monkeypatch.setattr("virnuc.sequences.cutting._PIECE", 1000)
    assert run(small, tmp_path / "pieces") == whole


def test_open_evidence_keeps_every_stop_free_frame(small, tmp_path):
    coding = run(small, tmp_path / "cds").counts
    everything = run(small, tmp_path / "open", evidence="open").counts
    assert everything["out"]["frames"] == coding["out"]["frames"] + coding["dropped"]["frames_no_cds_evidence"]
    assert everything["dropped"]["chunks_no_cds_evidence"] == 0


def test_shards_hold_at_most_ten_thousand_rows(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    letters = np.random.default_rng(0).choice(list("GC"), 603_000)  # no stop codon
    (source / "viral.fa").write_text(f">v\n{''.join(letters)}\n")
    (source / "plant.fa").write_text(">p\n" + "ATGGCA" * 60 + "\n")
    run(source, tmp_path / "frames", evidence="open")
    rows = [read_frames(path).num_rows for path in frame_shards(tmp_path / "frames") if "viral" in path.name]
    assert len(rows) > 1
    assert set(rows[:-1]) == {10_000}
    assert rows[-1] <= 10_000


def test_a_record_without_sequence_is_no_genome_and_is_counted(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "viral.fa").write_text(">v\n" + "ATGGCC" * 60 + "\n>nothing\n")
    (source / "plant.fa").write_text(">p\n" + "ATGGCA" * 60 + "\n")
    counts = run(source, tmp_path / "frames", evidence="open").counts
    assert (counts["in"]["records"], counts["in"]["genomes"]) == (3, 2)
    assert counts["dropped"]["records_without_sequence"] == 1


def test_a_changed_shard_is_noticed(small, tmp_path):
    run(small, tmp_path / "frames")
    shard = frame_shards(tmp_path / "frames")[0]
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(DataError, match="changed since it was written"):
        verified_manifest(tmp_path / "frames", "frames")


def test_an_edited_manifest_is_noticed(small, tmp_path):
    run(small, tmp_path / "frames")
    path = tmp_path / "frames" / "manifest.json"
    written = json.loads(path.read_text())
    edits = [
        ("shards", [{**written["shards"][0], "sha256": "0" * 64}, *written["shards"][1:]]),
        ("details", written["details"] | {"weights": "hub"}),
        ("parameters", written["parameters"] | {"chunk_size": 500}),
        ("counts", {}),
        ("inputs", {"frames": "0"}),
    ]
    for name, value in edits:
        path.write_text(json.dumps(written | {name: value}))
        with pytest.raises(DataError, match="was edited"):
            read_manifest(tmp_path / "frames", "frames")
    path.write_text(json.dumps(written | {"format_version": 99}))
    with pytest.raises(DataError, match="newer than 4; install a newer virnuc"):
        read_manifest(tmp_path / "frames", "frames")


def test_wrong_sources(tmp_path, small):
    with pytest.raises(UsageError, match="no such directory"):
        run(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sequence files"):
        run(tmp_path / "empty", tmp_path / "out")
    for name, problem in (("viruses", "did you mean viral"), ("bactria", "did you mean bacteria"), ("a b", "small")):
        path = tmp_path / "empty" / f"{name}.1.fa"
        path.write_text(">a\nACGT\n")
        with pytest.raises(DataError, match=problem):
            run(tmp_path / "empty", tmp_path / "out")
        path.unlink()
    (small / "viral.1.genomic.gbff").unlink()
    with pytest.raises(DataError, match="no viral frames"):
        run(small, tmp_path / "one_class")
    (small / "viral.2.fa").write_text(">AB009602.1\nACGT\n>AB009602.1\nACGT\n")
    with pytest.raises(DataError, match=r"AB009602\.1 is in viral\.2\.fa and again in viral\.2\.fa"):
        run(small, tmp_path / "twice")
    (small / "viral.2.fa").write_text(">a\nAC!GT\n")
    with pytest.raises(ParseError, match=r"viral\.2\.fa, record a"):
        run(small, tmp_path / "hostile")
