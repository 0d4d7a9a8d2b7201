"""Files damaged at random: a reader takes them or refuses them with an error of virnuc's, and does nothing else.

`python -m pytest tests/fuzz --hypothesis-profile=fuzz` tries 20,000 damages of each file instead of a few.
"""

import json
from io import BytesIO

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from entrypoints.config import read_config
from model_registry.gate import PROJECT_POLICY, Policy
from virnuc.encoders.weights import WeightFiles
from virnuc.errors import VirnucError
from virnuc.features.shards import read_shard
from virnuc.prediction.reading import read_records as read_sequences
from virnuc.prediction.scorer import read_config as read_scorer
from virnuc.sequences.genomes import read_genome_table
from virnuc.sequences.reading import read_records
from virnuc.storage.manifest import Manifest, Shard, read_manifest
from virnuc.training.checkpoint import load_checkpoint

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


SHARD = {"ids": ["A_chunk_1F1", "A_chunk_2F1"], "data": torch.ones(2, 3), "labels": [1]}
CHECKPOINT = {"epoch": 1, "model_state_dict": {}, "optimizer_state_dict": {}, "best_loss": 0.5, "metadata": {"seed": 1}}
INDEX = {"weight_map": {"a": "model-1.safetensors"}}
SCORER = {"format_version": 4, "chunk_size": 300, "encoders": [], "probe": {"probability": None}}
READERS = {  # the file's name, its content, and what reads it
    "genbank": ("a.gbff", GENBANK, lambda path: list(read_records(path))),
    "fasta": ("a.fa", b">a one\nACGTN\nACG\n>b\nACGT\n", lambda path: list(read_records(path))),
    "fastq": ("a.fq", b"@a\nACGT\n+\nIIII\n@b\nAC\n+\nII\n", lambda path: list(read_records(path))),
    "input": ("a.fa", b">a one\nACGTN\nACG\n>b\nACGT\n", lambda path: list(read_sequences([str(path)]))),
    "genomes": ("genomes.tsv", b"record\tgenome\norganism\tx\nA.1\tG\n", read_genome_table),
    "manifest": ("manifest.json", manifest_bytes, lambda path: read_manifest(path.parent, "frames")),
    "shard": ("a.pt", torch_bytes(SHARD), lambda path: read_shard(path).data.sum()),
    "checkpoint": ("a.pth", torch_bytes(CHECKPOINT), load_checkpoint),
    "safetensors": ("model.safetensors", save({"a": torch.ones(2, 3)}), weights),
    "pickled weights": ("pytorch_model.bin", torch_bytes({"a": torch.ones(2, 3)}), weights),
    "index": ("model.safetensors.index.json", json.dumps(INDEX).encode(), weights),
    "scorer": ("scorer.json", json.dumps(SCORER).encode(), lambda path: read_scorer(path.parent)),
    "policy": ("policy.yaml", PROJECT_POLICY.read_bytes(), Policy.read),
    "configuration": ("c.yaml", b"seed: 1\ntrain:\n  lr: 0.1\n", lambda path: read_config(path, "train")),
}  # fmt: skip
TOKENS = [b"\n", b"", b">", b"@", b"//\n", b"LOCUS", b"complement(", b"null", b"NaN", b"-1", b"1e999", b"9" * 5000,
          b'"', b"{", b"[" * 2000, b"\xff", b"\x00", b"\xed\xa0\x80", b"\\ud800", b"\t", b": &a [*a, *a]"]  # fmt: skip
DAMAGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(TOKENS) | st.binary(max_size=8)),
    min_size=1,
    max_size=4,
)


def damaged(content, damages):
    """Replace a few bytes at each place, given as a share of the length, by others."""
    for place, length, other in damages:
        start = int(place * len(content))
        content = content[:start] + other + content[start + length :]
    return content


@pytest.mark.parametrize("name", READERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(damages=DAMAGES)
@example(damages=[(0.0, 0, b"[" * 5000)])
def test_a_damaged_file_is_read_or_refused(tmp_path, name, damages):
    file, content, read = READERS[name]
    path = tmp_path / file
    path.write_bytes(damaged(content(tmp_path) if callable(content) else content, damages))
    try:
        read(path)
    except VirnucError as error:
        assert str(error)
