"""Pretrain `hexamer_tiny`, the DNA encoder that virnuc ships, on the corpus of a million genes.

    python -m examples.encoders.genes --corpus data/corpus
    python -m examples.encoders.hexamers

It learns to predict the class of a crop: viral, prokaryote or eukaryote; half of the crops are viral. Most crops begin
with a codon, as frames do; the others begin anywhere, on either strand, as chunks do. Some of their bases are mutated,
and most of their hexamers are masked, so that the network cannot learn genes by heart from a few of them.
In training, a hexamer's embedding is the sum of three: its own, that of its first four bases and that of its first
three, so that rare hexamers share what is learned about similar ones. The sum is what is written.

A run that is stopped continues from its last state; as batches and dropout are functions of seed and step, the weights
are the same. The file `training.json` beside them describes the training.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from examples.encoders.genes import CLASSES, UNKNOWN_CODON, Genes
from examples.encoders.training import Training
from virnuc.encoders.hexamer import MODEL_TYPE, PHASES, SIZES, UNKNOWN, K, hexamers
from virnuc.encoders.table import load_encoder
from virnuc.runtime import derived_seed
from virnuc.storage.files import sha256_file, write_text

NAME = "hexamer_tiny"
WATCHED_SEED, WATCHED_CROPS = 42, (1000, 850, 150)  # held-out crops of each kind, by class
_DIGITS = np.array([[codon // 16, codon // 4 % 4, codon % 4] for codon in range(64)] + [[4, 4, 4]], dtype=np.uint8)


@dataclass(frozen=True)
class Recipe:
    """How the encoder is built and trained."""

    embedding_size: int = 64
    num_hidden_layers: int = 2
    intermediate_size: int = 256
    hidden_size: int = 64
    scales: tuple[int, ...] = (6, 4, 3)  # numbers of first bases whose embeddings are added
    steps: int = 72_000
    per_class: tuple[int, int, int] = (128, 107, 21)  # crops of a batch: viral, prokaryote, eukaryote
    lengths: tuple[int, int] = (300, 498)  # bp
    short: float = 0.35  # share of batches that have the first length
    anywhere: float = 0.4  # share of crops that begin anywhere, on either strand
    mutated: float = 0.02  # mean share of mutated bases; that of a crop is uniform from 0 to twice this
    masked: float = 0.6  # share of a crop's hexamers that the network does not see
    dropout: float = 0.2
    lr: float = 2e-3
    warmup: int = 100  # steps
    decay: float = 0.7  # share of the steps in which the learning rate falls to 0
    weight_decay: float = 0.05  # of matrices
    seed: int = 42


class Crops:
    """Draws pieces of genes as hexamers."""

    def __init__(self, genes: Genes, lengths: tuple[int, ...]) -> None:
        self.genes = genes
        self.rows = {
            length: [
                np.flatnonzero((3 * genes.lengths >= length) & (genes.classes == number))
                for number in range(len(CLASSES))
            ]
            for length in lengths
        }

    def draw(
        self, generator: np.random.Generator, length: int, per_class: tuple[int, ...], anywhere: float, mutated: float
    ) -> tuple[Tensor, Tensor]:
        """Return the hexamers of crops, [n, length - 5] int64, and their classes, [n] int64."""
        rows = np.concatenate(
            [generator.choice(rows, count) for rows, count in zip(self.rows[length], per_class, strict=True)]
        )
        free = generator.random(len(rows)) < anywhere
        room = 3 * self.genes.lengths[rows] - length
        in_frame = PHASES * (generator.random(len(rows)) * (room // PHASES + 1)).astype(np.int64)
        starts = np.where(free, (generator.random(len(rows)) * (room + 1)).astype(np.int64), in_frame)
        places = (3 * self.genes.starts[rows] + starts)[:, None] + np.arange(length)
        bases = _DIGITS[self.genes.codons[places // 3], places % 3]
        reverse = free & (generator.random(len(rows)) < 0.5)
        bases[reverse] = np.where(bases[reverse] > 3, 4, 3 - bases[reverse])[:, ::-1]
        shares = 2 * mutated * generator.random((len(rows), 1))
        changed = (generator.random(bases.shape) < shares) & (bases < 4)
        bases = np.where(changed, (bases + generator.integers(1, 4, bases.shape)) % 4, bases)
        words, _ = hexamers(bases.ravel(), length * np.arange(len(rows) + 1))
        found = torch.from_numpy(words.reshape(len(rows), -1)).long()
        return found, torch.from_numpy(self.genes.classes[rows].astype(np.int64))


class Pretrainer(nn.Module):
    """The encoder in training, with its classification head."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.masked, self.dropout = recipe.masked, recipe.dropout
        words = torch.arange(UNKNOWN)
        self.rows = [words // 4 ** (K - k) for k in recipe.scales]  # of each hexamer, in each table
        self.tables = nn.ParameterList(
            nn.Parameter(0.05 * torch.randn(PHASES * 4**k, recipe.embedding_size)) for k in recipe.scales
        )
        self.norm = nn.LayerNorm(recipe.embedding_size)
        widths = [recipe.embedding_size, *[recipe.intermediate_size] * recipe.num_hidden_layers]
        self.hidden = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise(widths))
        self.down = nn.Linear(recipe.intermediate_size, recipe.hidden_size)
        self.last_norm = nn.LayerNorm(recipe.hidden_size)
        self.head = nn.Linear(recipe.hidden_size, len(CLASSES))

    def embeddings(self) -> Tensor:
        """Return the sum of the tables, by hexamer, and zeros for `UNKNOWN`."""
        added = sum(table[rows] for table, rows in zip(self.tables, self.rows, strict=True))
        return functional.pad(added, (0, 0, 0, 1))

    def forward(self, words: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings and class logits of hexamers [n, positions]; with a generator, as in training."""
        if generator is not None:
            words = words.masked_fill(torch.rand(words.shape, generator=generator) < self.masked, UNKNOWN)
        states = functional.embedding_bag(words, self.embeddings(), mode="mean", padding_idx=UNKNOWN)
        states = self.norm(states)
        for layer in self.hidden:
            states = functional.gelu(layer(self._drop(states, generator)))
        embedded = self.last_norm(self.down(self._drop(states, generator)))
        return embedded, self.head(embedded)

    def _drop(self, states: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            return states
        kept = torch.rand(states.shape, generator=generator) >= self.dropout
        return states * kept / (1 - self.dropout)

    def published(self) -> dict[str, Tensor]:
        """Return the encoder's weights by the keys that virnuc's loader reads, with the embeddings added."""
        state = {"hexamers.weight": self.embeddings()}
        for key, module in (
            ("hexamers.LayerNorm", self.norm),
            *((f"intermediate.{number}.dense", layer) for number, layer in enumerate(self.hidden)),
            ("output.dense", self.down),
            ("output.LayerNorm", self.last_norm),
        ):
            state |= {f"{key}.{name}": value for name, value in module.named_parameters()}
        return {key: value.detach().clone().contiguous() for key, value in state.items()}


class Run(Training):
    """A training and its state on disk."""

    def __init__(self, recipe: Recipe, genes: Genes, held_out: Genes, directory: Path) -> None:
        """Begin, or continue from the state in `directory`."""
        self.crops, self.watched = Crops(genes, recipe.lengths), _watched(held_out, recipe)
        torch.manual_seed(recipe.seed)
        super().__init__(Pretrainer(recipe), recipe, directory / f"{NAME}.pt", max(1, recipe.steps // 8))

    def learn(self) -> None:
        """Compute the gradients of one step."""
        recipe = self.recipe
        generator = np.random.default_rng(derived_seed(recipe.seed, "crops", self.step))
        length = recipe.lengths[0 if generator.random() < recipe.short else 1]
        words, classes = self.crops.draw(generator, length, recipe.per_class, recipe.anywhere, recipe.mutated)
        dropout = torch.Generator().manual_seed(derived_seed(recipe.seed, "dropout", self.step))
        functional.cross_entropy(self.net(words, dropout)[1], classes).backward()

    @torch.inference_mode()
    def watch(self) -> dict[str, float]:
        """Return the ROC-AUC of viral against other crops, for each kind of held-out crops."""
        return {
            kind: round(float(roc_auc_score(classes == 0, self.net(words)[1].softmax(1)[:, 0].numpy())), 4)
            for kind, (words, classes) in self.watched.items()
        }


def _watched(held_out: Genes, recipe: Recipe) -> dict[str, tuple[Tensor, Tensor]]:
    crops, kinds = Crops(held_out, recipe.lengths), {"in_frame": 0.0, "anywhere": 1.0}
    return {
        f"roc_auc_{length}_{kind}": crops.draw(
            np.random.default_rng(derived_seed(WATCHED_SEED, kind, length)), length, WATCHED_CROPS, share, 0.0
        )
        for length in recipe.lengths
        for kind, share in kinds.items()
    }


def write(run: Run, genes: Genes, data: Path, out: Path) -> None:
    """Write the encoder in the layout that virnuc loads, and `training.json`."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(run.net.published(), out / "model.safetensors", metadata={"format": "pt"})
    sizes = {name: getattr(run.recipe, name) for name in SIZES}
    write_text(out / "config.json", json.dumps({"model_type": MODEL_TYPE, **sizes}, indent=1) + "\n")
    long_enough = 3 * genes.lengths >= min(run.recipe.lengths)
    document = {
        "data": "coding sequences of Debian's metaphlan2-data 2.6.0+ds-4, as examples/encoders/genes.py reads them",
        "data_sha256": {name: sha256_file(data / f"{name}.npz") for name in ("train", "held_out")},
        "genes": json.loads((data / "genes.json").read_text(encoding="utf-8")),
        "crops_read": run.step * sum(run.recipe.per_class),
        "recipe": asdict(run.recipe),
        "history": run.history,
        "minutes": round(run.seconds / 60),
        "parameters": sum(value.numel() for value in run.net.published().values()),
        "torch": torch.__version__,
        "genomes": sorted(set(genes.genomes[long_enough].tolist())),
    }
    write_text(out / "training.json", json.dumps(document, indent=1) + "\n")


def check_loader(run: Run, directory: Path) -> None:
    """Check that virnuc's loader gives the same embedding of a gene as the trained network.

    Raises:
        AssertionError: they differ.
    """
    genes = run.crops.genes
    codons = genes.codons[genes.starts[0] : genes.starts[1]]
    known = codons[codons < UNKNOWN_CODON]
    dna = "".join("ACGT"[digit] for digit in _DIGITS[known].ravel())
    words, _ = hexamers(_DIGITS[known].ravel(), np.array([0, len(dna)]))
    with torch.inference_mode():
        trained, _ = run.net(torch.from_numpy(words)[None].long())
    torch.testing.assert_close(load_encoder(f"{MODEL_TYPE}:{directory}").embed([dna]), trained, rtol=1e-4, atol=1e-4)


def main() -> None:
    """Train and write the encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/pretraining"), help="what genes.py wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / NAME)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so that sums have the same order on every machine
    genes, held_out = (Genes.load(arguments.data / f"{name}.npz") for name in ("train", "held_out"))
    run = Run(Recipe(), genes, held_out, arguments.data)
    run.finish()
    write(run, genes, arguments.data, arguments.out)
    check_loader(run, arguments.out)


if __name__ == "__main__":
    main()
