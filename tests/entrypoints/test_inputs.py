"""Faulty inputs to each stage are refused before a run is opened."""

import sqlite3
from pathlib import Path

import mlflow
import pytest

from tests.entrypoints.test_command import refused
from tests.shared.experiment import BASELINE, CANDIDATE, FAST, SLOW
from virnuc.settings import STAGES

FEATURES, SPLIT = "{home}/features/tetranucleotide+esm2_tiny", "{home}/split"
BOTH = ["--features", FEATURES, "--split", SPLIT]
PAIR = ["--baseline", BASELINE, "--candidate", CANDIDATE]
CHEAP = ["--dna-encoder", "tetranucleotide", "--protein-encoder", "dipeptide"]
SIDES = ["--baseline", SLOW, "--candidate", FAST]
REFUSED = {
    "download": [
        ["--encoders", "esm2_tini"],
        ["--encoders", "dipeptide", "--divisions", ""],
        ["--divisions", "viruses"],
    ],
    "prepare": [
        ["--source", "nothing"],
        ["--source", "empty"],
        ["--source", "odd"],
        ["--source", "damaged", "--out", "frames"],
        ["--source", "one_source", "--out", "{home}/frames"],
    ],
    "extract": [
        ["--frames", "nothing"],
        ["--frames", FEATURES],
        ["--frames", "{home}/frames", "--dna-encoder", "tetranucleotid"],
        ["--frames", "{home}/frames", "--protein-encoder", "tetranucleotide", "--dna-encoder", "tetranucleotide"],
        ["--frames", "{home}/frames", *CHEAP, "--weights", "esm2_8=nowhere"],
        ["--frames", "{home}/frames", *CHEAP[:3], "esm2_8m", "--weights", "esm2_8m=nowhere"],
        ["--frames", "{home}/frames", *CHEAP[:3], "esm2_8m"],
        ["--frames", "{home}/frames", *CHEAP, "--revisions", "dipeptide=main"],
        ["--frames", "{home}/frames", *CHEAP, "--device", "cuda:7"],
    ],
    "split": [
        ["--source", "nothing"],
        ["--source", "empty"],
        ["--source", SPLIT],
        ["--source", FEATURES, "--genomes", "nothing.tsv"],
        ["--source", FEATURES, "--unit", "lineage", "--clade", "Nobody"],
        ["--source", FEATURES, "--unit", "cluster"],
        ["--source", FEATURES, "--out", SPLIT, "--seed", "7"],
    ],
    "train": [
        ["--features", "nothing", "--split", SPLIT],
        ["--features", FEATURES, "--split", "nothing"],
        ["--features", FEATURES, "--split", FEATURES],
        [*BOTH, "--companion", "models:/virnuc-nothing/1"],
        [*BOTH, "--device", "cuda:7"],
        [*BOTH, "--weights", "esm2_tini=nowhere"],
    ],
    "evaluate": [
        ["--model", "models:/virnuc-esm2_tini/1", *BOTH],
        ["--model", f"models:/virnuc-{FAST}@nobody", *BOTH],
        ["--model", CANDIDATE, "--features", "nothing", "--split", SPLIT],
        ["--model", CANDIDATE, "--features", FEATURES, "--split", "nothing"],
        ["--model", BASELINE, *BOTH],
        ["--model", CANDIDATE, *BOTH, "--device", "cuda:7"],
        ["--model", CANDIDATE, *BOTH, "--weights", "esm2_tini=nowhere"],
    ],
    "benchmark": [
        ["--frames", "{home}/frames", "--baseline", SLOW, "--candidate", "esm2_tini"],
        ["--frames", "{home}/frames", "--baseline", SLOW, "--candidate", "tetranucleotide"],
        ["--frames", "nothing", *SIDES],
        ["--frames", SPLIT, *SIDES],
        ["--frames", "{home}/frames", *SIDES, "--device", "cuda:7"],
        ["--frames", "{home}/frames", *SIDES, "--weights", f"{SLOW}=nowhere"],
    ],
    "compare": [
        ["--baseline", BASELINE, "--candidate", "models:/virnuc-esm2_tini/1"],
        [*PAIR, "--policy", "nothing.yaml"],
        [*PAIR, "--benchmark", "0123456789abcdef0123456789abcdef"],
        [*PAIR, "--controls", "models:/virnuc-dipeptid/1"],
    ],
    "promote": [
        ["--candidate", "models:/virnuc-esm2_tini/1"],
        ["--candidate", CANDIDATE, "--policy", "nothing.yaml"],
        ["--rollback", "yes"],
    ],
    "predict": [
        ["--input", "nothing.fasta", "--model", CANDIDATE],
        ["--input", "one.fasta", "--model", "models:/virnuc-esm2_tini/1"],
        ["--input", "empty.fasta", "--model", CANDIDATE],
        ["--input", "damaged/viral.gbff", "--model", CANDIDATE],
        ["--input", "one.fasta", "--model", CANDIDATE, "--device", "cuda:7"],
        ["--input", "one.fasta", "--model", CANDIDATE, "--out", SPLIT],
    ],
    "import_model": [
        ["--checkpoint", "nothing.pth"],
        ["--checkpoint", "one.fasta"],
        ["--metrics", "nothing.json", "--encoder", "esm2_3b"],
        ["--metrics", "one.fasta", "--encoder", "esm2_3b"],
        ["--metrics", "one.fasta", "--encoder", "esm2_3"],
    ],
    "pipeline": [
        ["--source", "nothing", *SIDES, "--dna-encoder", "tetranucleotide"],
        ["--source", "one_source", *SIDES, "--dna-encoder", "tetranucleotid"],
        ["--source", "one_source", *SIDES, "--dna-encoder", "tetranucleotide", "--policy", "nothing.yaml"],
        ["--source", "one_source", *SIDES, "--dna-encoder", "dnabert_s"],
        ["--source", "one_source", *SIDES, "--dna-encoder", "tetranucleotide", "--device", "cuda:7"],
        ["--overrides", "train.epoch=3"],
        ["--source", "damaged", *SIDES, "--dna-encoder", "tetranucleotide"],
    ],
    "main": [["--source", "nothing"], ["--baseline", "esm2_tini"], ["--epochs", "-1"]],
    "rehearse": [["--source", "nothing"], ["--baseline", "esm2_tini"], ["--device", "cuda:7"]],
}
# Faults that show only after the work has begun: the run is deleted.
LATER = (["--source", "damaged"], ["--source", "one_source"], ["--source", FEATURES, "--unit", "lineage"])


@pytest.fixture(scope="module")
def faulty_inputs(made, tmp_path_factory):
    """A copy of the experiment's store, with faulty inputs in the same directory."""
    directory = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        made.use(patch, directory)
        mlflow.set_tracking_uri(None)
    for name in ("empty", "odd", "damaged", "one_source"):
        (directory / name).mkdir()
    (directory / "odd" / "viruses.fa").write_text(">a\nACGT\n")
    (directory / "damaged" / "viral.gbff").write_text("LOCUS       V 30 bp DNA\nORIGIN\n        1 acgt")
    (directory / "one_source" / "viral.fa").write_text(">a\nACGT\n")
    (directory / "one.fasta").write_text(f">a\n{'ACGT' * 100}\n")
    (directory / "empty.fasta").touch()
    return directory


def runs(directory: Path, condition: str = "1") -> int:
    """Return the number of runs in the store."""
    with sqlite3.connect(directory / "mlflow.db") as database:
        return database.execute(f"SELECT count(*) FROM runs WHERE {condition}").fetchone()[0]


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"doctor"}))  # which opens no run
def test_an_input_at_fault_leaves_no_run(made, faulty_inputs, stage):
    listed, all_runs = runs(faulty_inputs, "lifecycle_stage = 'active'"), runs(faulty_inputs)
    for case in REFUSED[stage]:
        code, line = refused(stage, faulty_inputs, *(argument.format(home=made.home) for argument in case))
        assert code in (2, 4), (case, line)
        assert "please report" not in line
        assert runs(faulty_inputs, "lifecycle_stage = 'active'") == listed, case
        assert runs(faulty_inputs) == all_runs or any(case[: len(late)] == late for late in LATER), case
        all_runs = runs(faulty_inputs)
