"""The readers of untrusted files and requests: for each a good file, and a function that reads it."""

import json
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp

import mlflow
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import CONTENT_TYPE_JSON, invocations
from safetensors.torch import save

import model_registry
from entrypoints.config import read_config
from model_registry.gate import PROJECT_POLICY, Policy
from model_registry.packaging import SIGNATURE
from tests.shared import PROJECT
from virnuc.encoders.weights import WeightFiles
from virnuc.errors import DataError
from virnuc.features.shards import read_shard
from virnuc.prediction.reading import read_records as read_sequences
from virnuc.prediction.scorer import read_config as read_scorer
from virnuc.sequences.frames import read_frames
from virnuc.sequences.genomes import read_genome_table
from virnuc.sequences.reading import read_records
from virnuc.splits.assignment import ASSIGNMENTS, METADATA, Split
from virnuc.storage.manifest import Manifest, Shard, describe_shard, read_manifest
from virnuc.tracking import model_version
from virnuc.training.checkpoint import load_checkpoint

KEPT = PROJECT / "tests" / "data" / "formats"
GENBANK = b"""LOCUS       A1                        12 bp    DNA     linear   VRL 01-JAN-2020
DEFINITION  a.
ACCESSION   A1
VERSION     A1.1
SOURCE      virus
  ORGANISM  virus
            Viruses; Riboviria.
FEATURES             Location/Qualifiers
     CDS             complement(join(1..3,4..9))
                     /translation="MK"
ORIGIN
        1 acgtacgtac gt
//
"""
FASTA, FASTQ = b">a one\nACGTN\nACG\n>b\nACGT\n", b"@a\nACGT\n+\nIIII\n@b\nAC\n+\nII\n"
SHARD = {"ids": ["A_chunk_1F1", "A_chunk_2F1"], "data": torch.ones(2, 3), "labels": [1]}
INDEX = {"weight_map": {"a": "model-1.safetensors"}}
SCORER = {"format_version": 4, "chunk_size": 300, "encoders": [], "probe": {"probability": None}}
REQUEST = {"dataframe_records": [{"id": "a", "sequence": "ATGGCTAAAGGTGAAGAA" * 3}], "params": {"threshold": 0.5}}


def torch_bytes(document):
    stream = BytesIO()
    torch.save(document, stream)
    return stream.getvalue()


def manifest_bytes(directory):
    Manifest("frames", {"a": 1}, {}, {}, (Shard("a.parquet", 1, "0" * 64),)).write(directory)
    return (directory / "manifest.json").read_bytes()


def weights(path):
    files = WeightFiles(path.parent, "", lambda key: False)
    return [files.read(key) for key in files.shapes]


def split(path):
    """Open a split in which one file is replaced, with a manifest that agrees with the new file."""
    for name in {ASSIGNMENTS, METADATA} - {path.name}:
        (path.parent / name).write_bytes((KEPT / "split" / name).read_bytes())
    shards = (describe_shard(path.parent, path.parent / name, 1) for name in (ASSIGNMENTS, METADATA))
    Manifest("split", {}, {}, {}, tuple(shards)).write(path.parent)
    return Split.open(path.parent)


@cache
def served():
    """Return a registered model as `mlflow models serve` loads it."""
    place, code = Path(mkdtemp()) / "model", Path(model_registry.__file__).with_name("scoring_model.py")
    mlflow.pyfunc.save_model(
        place, python_model=str(code), artifacts={"scorer": str(KEPT / "scorer")}, signature=SIGNATURE
    )
    return mlflow.pyfunc.load_model(str(place))


def request(path):
    """Answer a request with a table or a client error."""
    try:
        return invocations(path.read_bytes(), CONTENT_TYPE_JSON, served(), SIGNATURE.inputs)
    except RecursionError as error:  # of MLflow's reader of JSON: the server answers 500 and goes on
        raise DataError("nested too deep") from error
    except MlflowException as error:
        if error.get_http_status_code() >= 500 or "unexpected error" in error.message:
            raise
        raise DataError(error.message) from error


def uri(path):
    return model_version(path.read_text(encoding="utf-8", errors="surrogateescape"))


READERS = {  # the file's name, its contents, and a function that reads it
    "genbank": ("a.gbff", GENBANK, lambda path: list(read_records(path))),
    "fasta": ("a.fa", FASTA, lambda path: list(read_records(path))),
    "fastq": ("a.fq", FASTQ, lambda path: list(read_records(path))),
    "input": ("a.fa", FASTA, lambda path: list(read_sequences([str(path)]))),
    "genomes": ("genomes.tsv", b"record\tgenome\torganism\tx\nA.1\tG\n", read_genome_table),
    "frames": ("a.parquet", (KEPT / "frames" / "viral-00000.parquet").read_bytes(), read_frames),
    "manifest": ("manifest.json", manifest_bytes, lambda path: read_manifest(path.parent, "frames")),
    "shard": ("a.pt", torch_bytes(SHARD), lambda path: read_shard(path).data.sum()),
    "assignments": (ASSIGNMENTS, (KEPT / "split" / ASSIGNMENTS).read_bytes(), split),
    "split metadata": (METADATA, (KEPT / "split" / METADATA).read_bytes(), split),
    "checkpoint": ("a.pth", (KEPT / "model_dipeptide.pth").read_bytes(), load_checkpoint),
    "safetensors": ("model.safetensors", save({"a": torch.ones(2, 3)}), weights),
    "pickled weights": ("pytorch_model.bin", torch_bytes({"a": torch.ones(2, 3)}), weights),
    "index": ("model.safetensors.index.json", json.dumps(INDEX).encode(), weights),
    "scorer": ("scorer.json", json.dumps(SCORER).encode(), lambda path: read_scorer(path.parent)),
    "policy": ("policy.yaml", PROJECT_POLICY.read_bytes(), Policy.read),
    "configuration": ("c.yaml", b"seed: 1\ntrain:\n  lr: 0.1\n", lambda path: read_config(path, "train")),
    "model URI": ("uri.txt", b"models:/virnuc@champion", uri),
    "request": ("request.json", json.dumps(REQUEST).encode(), request),
}  # fmt: skip


def good_file(name, directory):
    """Return the contents of a reader's good file."""
    content = READERS[name][1]
    return content(directory) if callable(content) else content
