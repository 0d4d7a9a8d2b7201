"""Pretrain the two small protein encoders that virnuc ships, from the embedded genomes.

    python examples/encoders/pretrain.py esm2_tiny
    python examples/encoders/pretrain.py esm2_tiny_deep

Only genomes of the training part of the default split (seed 42, unit genome) are read, and a tenth of those is
held out to watch. Random windows of the annotated proteins are learned twice: masked-language modelling first,
then tuning, in which a linear head on the pooled embedding tells the window's group while the masked letters go
on being predicted. What was done is written beside the weights as `training.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from tqdm import tqdm
from transformers import EsmConfig, EsmForMaskedLM

from virnuc.runtime import derived_seed
from virnuc.sequences.reading import read_records
from virnuc.sequences.sources import GROUPS, find_sources
from virnuc.splits.assignment import Split
from virnuc.storage.files import sha256_file

ALPHABET = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
TOKEN = {letter: number for number, letter in enumerate(ALPHABET)}
UNPUBLISHED = ("contact_head", "rotary_embeddings")  # unused, and kept for each layer instead
PUBLISHED = (  # what a published config.json tells
    "vocab_size",
    "mask_token_id",
    "pad_token_id",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "layer_norm_eps",
    "position_embedding_type",
    "emb_layer_norm_before",
    "token_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)
MASK, PAD = TOKEN["<mask>"], TOKEN["<pad>"]


@dataclass(frozen=True)
class Recipe:
    """How one encoder is built and trained."""

    hidden_size: int
    layers: int
    heads: int
    masked_steps: int  # masked-language modelling alone
    tuning_steps: int  # with the group's head
    batch_size: int = 64  # windows
    window: int = 98  # residues, as in a chunk of 300 bp
    shortest: int = 50  # residues
    masked: float = 0.15  # share of residues
    lr: float = 2e-3
    weight_decay: float = 0.05
    group_weight: float = 1.0  # of the group's loss beside the masked letters'
    dropout: float = 0.1
    seed: int = 42


RECIPES = {
    "esm2_tiny": Recipe(hidden_size=64, layers=2, heads=4, masked_steps=300, tuning_steps=3500),
    "esm2_tiny_deep": Recipe(hidden_size=80, layers=6, heads=5, masked_steps=300, tuning_steps=2200),
}


@dataclass(frozen=True)
class Proteins:
    """Annotated proteins as token ids, each with the number of its group."""

    tokens: list[np.ndarray]  # int64 `[residues]`
    groups: np.ndarray  # int64 `[n]`, index into GROUPS

    def windows(self, recipe: Recipe, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a batch of windows, half of them viral: ids `[batch, window + 2]` and groups `[batch]`."""
        viral = self.groups == GROUPS.index("viral")
        weights = np.array([len(tokens) for tokens in self.tokens], dtype=float)
        weights = np.where(viral, weights / weights[viral].sum(), weights / weights[~viral].sum())
        chosen = generator.choice(len(self.tokens), recipe.batch_size, p=weights / weights.sum())
        batch = np.full((recipe.batch_size, recipe.window + 2), PAD)
        for row, number in zip(batch, chosen, strict=True):
            tokens = self.tokens[number]
            length = min(len(tokens), int(generator.integers(recipe.shortest, recipe.window + 1)))
            start = int(generator.integers(0, len(tokens) - length + 1))
            row[: length + 2] = [TOKEN["<cls>"], *tokens[start : start + length], TOKEN["<eos>"]]
        return torch.from_numpy(batch), torch.from_numpy(self.groups[chosen])


class Tuner(torch.nn.Module):
    """The encoder with its masked-language head and a linear head for the group."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model = EsmForMaskedLM(configuration(recipe))
        self.group = torch.nn.Linear(recipe.hidden_size, len(GROUPS))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the letters' logits `[batch, length, 33]` and the groups' `[batch, 9]`."""
        hidden = self.model.esm(tokens, attention_mask=tokens != PAD).last_hidden_state
        residues = ((tokens > 3) & (tokens != PAD)).unsqueeze(-1)
        pooled = (hidden * residues).sum(1) / residues.sum(1)
        return self.model.lm_head(hidden), self.group(functional.dropout(pooled, 0.2, self.training))


def configuration(recipe: Recipe) -> EsmConfig:
    """Return the configuration in the layout of the published ESM-2 checkpoints."""
    return EsmConfig(
        vocab_size=len(ALPHABET),
        mask_token_id=MASK,
        pad_token_id=PAD,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.hidden_size,
        max_position_embeddings=1026,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
        hidden_dropout_prob=recipe.dropout,
        attention_probs_dropout_prob=0.0,
    )


def training_proteins(source: Path, split: Split) -> tuple[Proteins, Proteins]:
    """Return the proteins of the training genomes: nine tenths to learn from, one tenth to watch."""
    genomes = sorted(set(split.table.loc[split.table["part"] == "train", "genome"]))
    watched = {name for name in genomes if derived_seed(split.metadata["seed"], "watch", name) % 10 == 0}
    collected: dict[bool, tuple[list[np.ndarray], list[int]]] = {False: ([], []), True: ([], [])}
    for file in find_sources(source):
        for genome in read_records(file.path):
            if genome.genome.name not in genomes:
                continue
            tokens, groups = collected[genome.genome.name in watched]
            for protein in set(genome.translations):
                if len(protein) >= 30:
                    tokens.append(np.array([TOKEN.get(letter, TOKEN["X"]) for letter in protein]))
                    groups.append(GROUPS.index(file.group))
    learned, held_out = (Proteins(tokens, np.array(groups)) for tokens, groups in collected.values())
    return learned, held_out


def losses(
    tuner: Tuner, tokens: torch.Tensor, groups: torch.Tensor, recipe: Recipe, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the masked letters' loss, the group's loss and the share of windows told viral or not rightly."""
    hidden = (torch.rand(tokens.shape, generator=draw) < recipe.masked) & (tokens > 3)
    letters, told = tuner(tokens.masked_fill(hidden, MASK))
    viral = GROUPS.index("viral")
    return (
        functional.cross_entropy(letters.transpose(1, 2), tokens.masked_fill(~hidden, -100)),
        functional.cross_entropy(told, groups),
        ((told.softmax(-1)[:, viral] > 0.5) == (groups == viral)).float().mean(),
    )


def watch(tuner: Tuner, held_out: Proteins, recipe: Recipe) -> dict[str, float]:
    """Return mean losses and accuracy on 20 batches of held-out windows, always the same ones."""
    draw, generator = torch.Generator().manual_seed(recipe.seed), np.random.default_rng(recipe.seed)
    tuner.eval()
    with torch.inference_mode():
        measured = [losses(tuner, *held_out.windows(recipe, generator), recipe, draw) for _ in range(20)]
    tuner.train()
    means = [round(float(torch.stack(values).mean()), 4) for values in zip(*measured, strict=True)]
    return dict(zip(("masked_loss", "group_loss", "viral_accuracy"), means, strict=True))


def pretrain(recipe: Recipe, learned: Proteins, held_out: Proteins) -> tuple[EsmForMaskedLM, list[dict[str, float]]]:
    """Train one encoder; return it and what was watched every 250 steps."""
    torch.manual_seed(recipe.seed)
    draw, generator = torch.Generator().manual_seed(recipe.seed + 1), np.random.default_rng(recipe.seed + 1)
    tuner = Tuner(recipe)
    steps = recipe.masked_steps + recipe.tuning_steps
    optimizer = torch.optim.AdamW(tuner.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.05)
    history = []
    for step in (bar := tqdm(range(1, steps + 1))):
        masked_loss, group_loss, _ = losses(tuner, *learned.windows(recipe, generator), recipe, draw)
        loss = masked_loss + (recipe.group_weight if step > recipe.masked_steps else 0.0) * group_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuner.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps:
            history.append({"step": step, **watch(tuner, held_out, recipe)})
            bar.write(json.dumps(history[-1]))
    return tuner.model.eval(), history


def write_checkpoint(model: EsmForMaskedLM, recipe: Recipe, out: Path) -> None:
    """Write the encoder in the layout of the published ESM-2 checkpoints, without the heads that nothing needs."""
    out.mkdir(parents=True, exist_ok=True)
    state = {f"esm.{key}": value for key, value in model.esm.state_dict().items() if not key.startswith(UNPUBLISHED)}
    head = recipe.hidden_size // recipe.heads
    for layer in range(recipe.layers):
        key = f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
        state[key] = 10000.0 ** (-torch.arange(0, head, 2) / head)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    config = {name: model.config.to_dict()[name] for name in PUBLISHED}
    written = {"architectures": ["EsmForMaskedLM"], "model_type": "esm", **config, "torch_dtype": "float32"}
    (out / "config.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Prepare and split the embedded genomes if need be, train one encoder, write it in the hub's layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--source", type=Path, default=Path("examples/refseq_mini"))
    parser.add_argument("--split", type=Path, default=Path("data/test_set"), help="the default one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    recipe, split = RECIPES[arguments.name], Split.open(arguments.split)
    learned, held_out = training_proteins(arguments.source, split)
    model, history = pretrain(recipe, learned, held_out)
    out = arguments.out / arguments.name
    write_checkpoint(model, recipe, out)
    record = {
        "data": "annotated proteins of the training genomes of examples/refseq_mini",
        "split_digest": split.digest,
        "sources": {file.path.name: sha256_file(file.path) for file in find_sources(arguments.source)},
        "genomes": sorted(set(split.table.loc[split.table["part"] == "train", "genome"])),
        "proteins": {"learned": len(learned.tokens), "held_out": len(held_out.tokens)},
        "recipe": asdict(recipe),
        "history": history,
        "parameters": sum(parameter.numel() for parameter in model.esm.parameters()),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
