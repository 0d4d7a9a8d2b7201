"""Pretrain the two small protein encoders that virnuc ships, on the corpus of a million genes.

    python -m examples.encoders.genes --corpus data/corpus
    python -m examples.encoders.pretrain start
    python -m examples.encoders.pretrain esm2_tiny
    python -m examples.encoders.pretrain esm2_tiny_deep

Letters of the crops are masked or mutated, and three losses are added: of the hidden letters; of the gene's class,
predicted from the mean embedding; and of its class, predicted from the mean embedding and the DNA's codon-phase
composition, which rewards what the DNA alone does not show. Both encoders continue from the weights of one network with
a single layer, `start`, which reads every gene once and is cheap. They get more viral crops, and the deep one has
further layers, which have no effect at first.

A run that is stopped continues from its last state; as batches are functions of seed and step and nothing else is
random, the weights are the same. The file `training.json` beside them describes the training.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from examples.encoders.crops import COMPOSITION, Batch, Crops, Sampling
from examples.encoders.genes import CLASSES, Genes
from examples.encoders.model import MASK, Pretrainer, Shape, write_checkpoint
from examples.encoders.training import Training
from virnuc.encoders.table import load_encoder
from virnuc.encoders.tokens import ESM_VOCABULARY
from virnuc.storage.files import sha256_file, write_text

WATCH_STEPS = 500
WATCHED_BATCHES = 20
WATCHED = Sampling(lengths=((0, 98, 98),), per_class=(32, 30, 2))  # held-out crops: half of them viral
WATCHED_SEED = 42  # the same held-out crops for all recipes
SHIPPED = Sampling()


@dataclass(frozen=True)
class Recipe:
    """How one encoder is built and trained."""

    shape: Shape
    steps: int
    grows_from: str = ""  # recipe whose last weights it starts with
    lr: float = 3e-3
    warmup: int = 200  # steps
    decay: float = 0.35  # share of its steps in which the learning rate falls to 0
    weight_decay: float = 0.01  # of matrices
    clip: float = 1.0  # maximum norm of the gradient
    class_weights: tuple[float, float, float] = (3.2, 0.6, 1.0)  # in the supervised losses
    sampling: Sampling = SHIPPED
    seed: int = 42


START = "start"  # both encoders continue from it; with a single layer, most of the training is cheap
_TUNING = Recipe(
    shape=Shape(width=64, layers=1, heads=4),
    steps=800,
    grows_from=START,
    lr=1.5e-3,
    warmup=50,
    decay=0.8,
    class_weights=(1.3, 0.85, 1.0),
    sampling=Sampling(lengths=((0, 60, 98),), per_class=(24, 36, 4)),
    seed=43,
)
RECIPES = {
    START: Recipe(Shape(width=64, layers=1, heads=4), steps=9200),
    "esm2_tiny": _TUNING,
    "esm2_tiny_deep": replace(_TUNING, shape=Shape(width=64, layers=4, heads=4)),
}


class Run(Training):
    """One encoder's training and its state on disk."""

    def __init__(self, name: str, recipe: Recipe, genes: Genes, held_out: Genes, directory: Path) -> None:
        """Begin, or continue from the state in `directory`."""
        self.name = name
        self.crops, watched = Crops(genes, recipe.sampling, recipe.seed), Crops(held_out, WATCHED, WATCHED_SEED)
        self.watched = [watched.batch(number) for number in range(WATCHED_BATCHES)]
        torch.manual_seed(recipe.seed)
        net = Pretrainer(recipe.shape, len(CLASSES), COMPOSITION.dimension)
        super().__init__(net, recipe, directory / f"{name}.pt", WATCH_STEPS)
        if recipe.grows_from and self.step == 0:
            self.net.grow(torch.load(directory / f"{recipe.grows_from}.pt", weights_only=True)["net"])

    def losses(self, batch: Batch) -> Tensor:
        """Return the three losses, [3]: of hidden letters, of classes, and of classes with composition."""
        letters, alone, beside = self.net(batch.corrupted, batch.hidden, batch.composition)
        weights = torch.tensor(self.recipe.class_weights)
        return torch.stack(
            (
                functional.cross_entropy(letters, batch.tokens[batch.hidden]),
                functional.cross_entropy(alone, batch.classes, weights),
                functional.cross_entropy(beside, batch.classes, weights),
            )
        )

    def learn(self) -> None:
        """Compute the gradients of one step."""
        self.losses(self.crops.batch(self.step)).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)

    @torch.inference_mode()
    def watch(self) -> dict[str, float]:
        """Return the loss of masked letters, and ROC-AUC of viral against other crops, on held-out crops."""
        masked, alone, beside, viral = [], [], [], []
        for batch in self.watched:
            read = batch.tokens.masked_fill(batch.hidden, MASK)
            letters, _, _ = self.net(read, batch.hidden, batch.composition)
            masked.append(functional.cross_entropy(letters, batch.tokens[batch.hidden]).item())
            _, by_protein, by_both = self.net(batch.tokens, batch.hidden, batch.composition)
            alone.append(by_protein.softmax(1)[:, 0])
            beside.append(by_both.softmax(1)[:, 0])
            viral.append(batch.classes == 0)
        truth = torch.cat(viral).numpy()
        return {
            "masked_loss": round(float(np.mean(masked)), 4),
            "roc_auc_protein": round(float(roc_auc_score(truth, torch.cat(alone).numpy())), 4),
            "roc_auc_with_codon_phase": round(float(roc_auc_score(truth, torch.cat(beside).numpy())), 4),
        }


def document(run: Run, genes: Genes, data: Path) -> dict[str, object]:
    """Return the contents of `training.json`."""
    start, chain = RECIPES[START], {START: RECIPES[START], run.name: run.recipe}
    seen = Crops(genes, start.sampling, start.seed).seen(start.steps)
    began = torch.load(data / f"{START}.pt", weights_only=True)
    return {
        "data": "coding sequences of Debian's metaphlan2-data 2.6.0+ds-4, as examples/encoders/genes.py reads them",
        "data_sha256": {name: sha256_file(data / f"{name}.npz") for name in ("train", "held_out")},
        "genes": json.loads((data / "genes.json").read_text(encoding="utf-8")),
        "proteins_seen": dict(zip(CLASSES, seen, strict=True)),
        "crops_read": {name: recipe.steps * sum(recipe.sampling.per_class) for name, recipe in chain.items()},
        "recipes": {name: asdict(recipe) for name, recipe in chain.items()},
        "letters_by_frequency": round(run.crops.frequency_loss(run.watched), 4),
        "history": {START: began["history"], run.name: run.history},
        "minutes": {START: round(began["seconds"] / 60), run.name: round(run.seconds / 60)},
        "parameters": sum(parameter.numel() for parameter in run.net.esm.parameters()),
        "torch": torch.__version__,
        "genomes": sorted(set(genes.genomes[run.crops.long_enough].tolist())),
    }


def check_loader(run: Run, directory: Path) -> None:
    """Check that virnuc's loader gives the same embeddings of held-out crops as the trained network.

    Raises:
        AssertionError: they differ.
    """
    batch = run.watched[0]
    letters = [["".join(ESM_VOCABULARY[token] for token in row[1:-1])] for row in batch.tokens.tolist()]
    encoder = load_encoder("esm:" + str(directory))
    loaded = torch.cat([encoder.embed(protein) for protein in letters])
    with torch.inference_mode():
        trained = run.net.esm(batch.tokens)[:, 1:-1].mean(1)
    torch.testing.assert_close(loaded, trained, rtol=1e-4, atol=1e-4)


def main() -> None:
    """Train one of the recipes and write the encoder in the hub's layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--data", type=Path, default=Path("data/pretraining"), help="what genes.py wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so that sums have the same order on every machine
    genes, held_out = (Genes.load(arguments.data / f"{name}.npz") for name in ("train", "held_out"))
    run = Run(arguments.name, RECIPES[arguments.name], genes, held_out, arguments.data)
    run.finish()
    if arguments.name == START:
        return
    out = arguments.out / arguments.name
    write_checkpoint(run.net.esm, out)
    check_loader(run, out)
    write_text(out / "training.json", json.dumps(document(run, genes, arguments.data), indent=1) + "\n")


if __name__ == "__main__":
    main()
