"""The stage `predict`: streams and tables, hostile input, and kills at any moment."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import random
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from virnuc.errors import DataError, ParseError, UsageError
from virnuc.prediction import prediction
from virnuc.prediction.chunks import cut, cut_chunks
from virnuc.prediction.prediction import predict
from virnuc.prediction.reading import check_inputs, read_records
from virnuc.prediction.sequences import score_sequences
from virnuc.prediction.tables import TABLES
from virnuc.storage.manifest import verified_manifest

DRAW = random.Random(11)


def reads(count, lengths=(0, 10, 120, 300, 301, 1500)):
    return [(f"read_{number}", "".join(DRAW.choices("ACGT", k=DRAW.choice(lengths)))) for number in range(count)]


def fasta(records):
    return "".join(f">{name} some words\n{sequence}\n" for name, sequence in records)


def wrapped(sequence):
    return "\n".join(sequence[start : start + 60] for start in range(0, len(sequence), 60))


def fastq(records):
    return "".join(f"@{name}\n{sequence}\n+\n{'I' * len(sequence)}\n" for name, sequence in records)


def written(path, text):
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(text.encode())
    return str(path)


def tables(out):
    return {name: (out / name).read_bytes() for name in TABLES}


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(prediction, "CHUNKS_AT_ONCE", 16)
    monkeypatch.setattr(prediction, "BATCHES_IN_PART", 2)


def test_every_chunk_comes_out_exactly_once_in_every_table(scorer, tmp_path, small_parts):
    records = reads(60)
    manifest = predict([written(tmp_path / "a.fa", fasta(records))], scorer, "m", tmp_path / "out")
    wanted = [
        (name, number, start, start + len(part), f"{name}_chunk_{number}")
        for name, sequence in records
        for number, (start, part) in enumerate(cut_chunks(sequence, 300), 1)
    ]
    calls = pd.read_parquet(tmp_path / "out" / "calls.parquet")
    assert (
        list(calls[["sequence", "chunk", "start", "end", "Sequence_ID"]].itertuples(index=False, name=None)) == wanted
    )
    text = pd.read_csv(tmp_path / "out" / "calls.tsv", sep="\t")
    assert text["Sequence_ID"].tolist() == calls["Sequence_ID"].tolist()
    assert text["score2"].to_numpy() == pytest.approx(calls["score2"].to_numpy(), abs=1e-8, nan_ok=True)
    assert text.columns[:4].tolist() == ["Sequence_ID", "Prediction", "score1", "score2"]
    assert calls["Prediction"][calls["score1"].isna()].eq("").all()
    assert manifest.counts["in"]["chunks"] == len(wanted) == manifest.counts["out"]["chunks"]
    verified_manifest(tmp_path / "out", "calls")


def test_the_rows_of_sequences_are_the_registered_models_answer(scorer, tmp_path, small_parts):
    records = [*reads(20), ("long", "".join(DRAW.choices("ACGT", k=30_000)))]  # over several parts
    predict([written(tmp_path / "a.fa", fasta(records))], scorer, "m", tmp_path / "out")
    summary = pd.read_parquet(tmp_path / "out" / "sequences.parquet")
    direct = score_sequences(scorer, [sequence for _, sequence in records])
    assert summary["sequence"].tolist() == [name for name, _ in records]
    assert summary["length"].tolist() == [len(sequence) for _, sequence in records]
    assert summary["probability"].to_numpy() == pytest.approx(direct["probability"].to_numpy(), abs=1e-6, nan_ok=True)
    for name in ("label", "status", "chunks", "frame"):
        assert summary[name].tolist() == direct[name].tolist()


def test_virnucpros_files_are_as_its_own_code_makes_them(scorer, tmp_path, small_parts):
    records = reads(60)
    predict([written(tmp_path / "a.fa", fasta(records))], scorer, "m", tmp_path / "out", threshold=0.9)
    frames = pd.read_csv(tmp_path / "out" / "prediction_results.txt", sep="\t")
    assert frames.columns.tolist() == ["Sequence_ID", "Prediction", "score1", "score2"]
    pieces = {}
    for name, sequence in records:
        for number, (_, chunk) in enumerate(cut_chunks(sequence, 300), 1):
            (status,), found = cut([chunk])
            if status == "scored":
                pieces |= {f"{name}_chunk_{number}{piece.frame}": piece for piece in found}
    assert frames["Sequence_ID"].tolist() == list(pieces)
    halves = [
        encoder.embed([getattr(p, attribute) for p in pieces.values()], batch_tokens=4096)
        for encoder, attribute in zip(scorer.encoders, ("nucleotide", "protein"), strict=True)
    ]
    with torch.inference_mode():
        expected = torch.softmax(scorer.classifier(torch.cat(halves, 1)).double() / scorer.temperature, 1).numpy()
    assert frames[["score1", "score2"]].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert (frames["Prediction"] == np.where(expected[:, 1] > expected[:, 0], "virus", "others")).all()
    # VirNucPro: df["Sequence_ID"].str[:-2], grouped, max(score2) >= max(score1)
    best = frames.groupby(frames["Sequence_ID"].str[:-2])[["score1", "score2"]].max()
    highest = pd.read_csv(tmp_path / "out" / "prediction_results_highestscore.csv", sep="\t").set_index("Modified_ID")
    assert highest["Is_Virus"].to_dict() == (best["score2"] >= best["score1"]).to_dict()


def test_every_column_is_explained_beside_the_tables(scorer, tmp_path):
    predict([written(tmp_path / "a.fa", fasta(reads(3)))], scorer, "m", tmp_path / "out")
    explained = pd.read_csv(tmp_path / "out" / "columns.tsv", sep="\t")
    for name in TABLES:
        told = explained[explained["file"].str.split(", ").map(lambda files, name=name: name in files)]
        if name.endswith((".bed", ".gz")):
            assert len(told) == 1
        else:
            separated = (tmp_path / "out" / name.replace(".parquet", ".tsv")).read_text().splitlines()[0].split("\t")
            assert told["column"].tolist() == separated


def test_formats_compression_and_standard_input_give_the_same_calls(scorer, tmp_path, monkeypatch):
    records = reads(12, lengths=(200, 300, 900))
    sources = {
        "fa": written(tmp_path / "a.fa", fasta(records)),
        "fagz": written(tmp_path / "b.fa.gz", fasta(records)),
        "fq": written(tmp_path / "c.fastq", fastq(records)),
        "fqgz": written(tmp_path / "wrong_suffix.fa.gz", fastq(records)),
        "wrapped": written(tmp_path / "d.txt", fasta([(name, wrapped(sequence)) for name, sequence in records])),
        "rna": written(tmp_path / "e.fa", fasta([(name, s.lower().replace("t", "u")) for name, s in records])),
    }
    found = {}
    for name, source in sources.items():
        predict([source], scorer, "m", tmp_path / name)
        found[name] = pd.read_parquet(tmp_path / name / "calls.parquet").drop(columns="file")
    for name, content in (("stdin", fasta(records).encode()), ("stdin_gz", gzip.compress(fastq(records).encode()))):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
        predict(["-"], scorer, "m", tmp_path / name)
        found[name] = pd.read_parquet(tmp_path / name / "calls.parquet").drop(columns="file")
    for table in found.values():
        pd.testing.assert_frame_equal(table, found["fa"])
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after `<&-`
    with pytest.raises(UsageError, match="standard input is closed; give files"):
        predict(["-"], scorer, "m", tmp_path / "closed")


def test_several_files_are_one_stream_and_equal_names_stay_apart(scorer, tmp_path):
    records = reads(3, lengths=(300,))
    sources = [written(tmp_path / f"{mate}.fq", fastq(records)) for mate in ("r1", "r2")]
    predict(sources, scorer, "m", tmp_path / "out")
    summary = pd.read_parquet(tmp_path / "out" / "sequences.parquet")
    assert summary["record"].tolist() == [1, 2, 3, 4, 5, 6]
    assert summary["file"].tolist() == ["r1.fq"] * 3 + ["r2.fq"] * 3


def test_hostile_headers_cannot_break_a_table(scorer, tmp_path):
    names = ["", "a\tb", 'quo"te', "comma,x", "x_chunk_7", "n" * 100_000, "\x1b[31mred", "../../etc/passwd"]
    path = written(tmp_path / "a.fa", "".join(f">{name}\n{'ACGGCT' * 50}\n" for name in names))
    predict([path], scorer, "m", tmp_path / "out")
    kept = pd.read_parquet(tmp_path / "out" / "sequences.parquet")["sequence"].tolist()
    assert kept[:5] == ["record_1", "a", 'quo"te', "comma,x", "x_chunk_7"] and kept[6] == "_[31mred"
    assert len(kept[5]) == 200 and max(map(len, kept)) == 200
    assert pd.read_csv(tmp_path / "out" / "sequences.tsv", sep="\t")["sequence"].tolist() == kept
    highest = pd.read_csv(tmp_path / "out" / "prediction_results_highestscore.csv", sep="\t")
    assert highest["Modified_ID"].tolist() == [f"{name}_chunk_1" for name in kept]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "neither FASTA nor FASTQ"),
        (b"hello", "neither FASTA nor FASTQ"),
        (b">a\nACGT\n>b\nACGJ\n", "record b: 'J' at base 4 is not an IUPAC base"),
        (b">a\nAC-GT\n", "record a: '-' at base 3"),
        (b"@a\nACGT\n+\nII\n", "record 1: .* at line 4"),
        (b"@a\nACGT\n+\nIIII\n@b\nACG", "record 2: .* at line 6"),
        (gzip.compress(b">a\n" + b"ACGT" * 5000, mtime=0)[:-20], "cut short or damaged"),
        (b"\x1f\x8bnonsense and more nonsense", "cut short or damaged"),
    ],
)
def test_damaged_input_is_named_with_its_record(tmp_path, content, match):
    (tmp_path / "a.fa").write_bytes(content)
    with pytest.raises(ParseError, match=match):
        list(read_records([str(tmp_path / "a.fa")]))


def test_sources_are_checked_before_anything_is_read(tmp_path):
    for sources, match in ([], "empty"), (["-", "a"], "cannot be joined"), ([str(tmp_path / "no.fa")], "no such file"):
        with pytest.raises(UsageError, match=match):
            check_inputs(sources)


def test_a_finished_directory_is_taken_only_for_the_same_run(scorer, tmp_path):
    first, other = written(tmp_path / "a.fa", fasta(reads(5))), written(tmp_path / "b.fa", fasta(reads(5)))
    done = predict([first], scorer, "m", tmp_path / "out")
    assert predict([first], scorer, "m", tmp_path / "out") == done
    for sources, model, threshold in (([other], "m", 0.5), ([first], "n", 0.5), ([first], "m", 0.9)):
        with pytest.raises(DataError, match="already made"):
            predict(sources, scorer, model, tmp_path / "out", threshold=threshold)


def test_progress_counts_every_base(scorer, tmp_path, small_parts):
    records, seen = reads(40), []
    predict(
        [written(tmp_path / "a.fa", fasta(records))],
        scorer,
        "m",
        tmp_path / "out",
        progress=lambda what, done, total: seen.append(done),
    )
    assert (
        seen == sorted(seen)
        and seen[-1] == sum(len(part) for _, s in records for _, part in cut_chunks(s, 300))
        and len(seen) > 3
    )


@pytest.mark.e2e
def test_killed_at_any_moment_and_started_again_it_gives_the_same_bytes(scorer, tmp_path, small_parts):
    source = written(tmp_path / "a.fa", fasta(reads(150)))
    predict([source], scorer, "m", tmp_path / "undisturbed")
    out, kills = tmp_path / "out", 0
    given, slow = ([source], scorer, "m", out), lambda *done: time.sleep(0.01)
    for finished in (0, 1):  # parts, when it is killed
        process = multiprocessing.get_context("fork").Process(target=predict, args=given, kwargs={"progress": slow})
        process.start()
        while process.is_alive() and len(list((out / ".progress").glob("part-*.parquet"))) < finished:
            time.sleep(0.002)
        time.sleep(0.02)
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
    parts = list((out / ".progress").glob("part-*.parquet"))
    assert kills == 2 and (parts or (out / "manifest.json").is_file())
    predict([source], scorer, "m", out)
    assert tables(out) == tables(tmp_path / "undisturbed")
    assert not (out / ".progress").exists()
    assert [path.name for path in out.iterdir() if path.name.endswith(".partial")] == []


def test_an_unfinished_run_is_not_finished_with_other_sequences(scorer, tmp_path, small_parts):
    records = reads(60)
    good = written(tmp_path / "a.fa", fasta(records))
    with pytest.raises(KeyboardInterrupt):
        predict([good], scorer, "m", tmp_path / "out", progress=stop_after(3))
    with pytest.raises(DataError, match="begun with other sequences"):
        predict([written(tmp_path / "b.fa", fasta(records[1:]))], scorer, "m", tmp_path / "out")
    with pytest.raises(DataError, match="begun with other parameters"):
        predict([good], scorer, "n", tmp_path / "out")
    begun = json.loads((Path(tmp_path) / "out" / ".progress" / "command.json").read_text())
    assert begun["parameters"]["model"] == "m"


def stop_after(calls):
    left = [calls]

    def progress(what, done, total):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return progress
