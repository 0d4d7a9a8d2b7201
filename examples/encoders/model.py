"""ESM-2 for pretraining: with heads, on batches of equally long crops, which need neither padding nor masks.

`write_checkpoint` writes the encoder without the heads, in the layout of the published files, which virnuc loads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from virnuc.encoders.tokens import ESM_VOCABULARY
from virnuc.encoders.weights import rotary_frequencies

TOKEN_SCALE = 0.88  # ESM-2's factor for token dropout at inference, applied in training, too
MASK = ESM_VOCABULARY.index("<mask>")


@dataclass(frozen=True)
class Shape:
    """The architecture."""

    width: int
    layers: int
    heads: int

    @property
    def inner(self) -> int:
        """Return the width of the feed-forward layer."""
        return 4 * self.width


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate queries and keys [batch, length, 2, heads, head width] by tables [length, 1, 1, half a head's width]."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm = nn.LayerNorm(shape.width)
        self.up = nn.Linear(shape.width, shape.inner)
        self.down = nn.Linear(shape.inner, shape.width)

    def forward(self, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Map [batch, length, width] to the same."""
        qkv = self.qkv(self.attention_norm(states)).unflatten(2, (3, self.heads, -1))
        turned = rotate(qkv[:, :, :2], cosine, sine)
        query, key, value = (part.transpose(1, 2) for part in (turned[:, :, 0], turned[:, :, 1], qkv[:, :, 2]))
        attended = functional.scaled_dot_product_attention(query, key, value)
        states = states + self.out(attended.transpose(1, 2).flatten(2))
        return states + self.down(functional.gelu(self.up(self.norm(states))))


class Esm(nn.Module):
    """The encoder."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(len(ESM_VOCABULARY), shape.width)
        self.layer = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.last_norm = nn.LayerNorm(shape.width)
        self.register_buffer("frequencies", rotary_frequencies(shape.width // shape.heads // 2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids [batch, length] to states [batch, length, width]."""
        angles = torch.arange(tokens.shape[1])[:, None, None, None] * self.frequencies
        cosine, sine = angles.cos(), angles.sin()
        states = self.words(tokens) * TOKEN_SCALE
        for layer in self.layer:
            states = layer(states, cosine, sine)
        return self.last_norm(states)


class Pretrainer(nn.Module):
    """An encoder with the heads of its three losses."""

    def __init__(self, shape: Shape, classes: int, composition: int) -> None:
        """Lay out the network.

        Args:
            shape: architecture of the encoder.
            classes: number of classes of both supervised heads.
            composition: width of the DNA's composition vector, which the second one reads together with the embedding.
        """
        super().__init__()
        self.esm = Esm(shape)
        self.letters = nn.Linear(shape.width, len(ESM_VOCABULARY))
        self.alone = nn.Linear(shape.width, classes)
        self.beside = nn.Linear(shape.width, classes)
        self.composition = nn.Sequential(nn.Linear(composition, 64), nn.ReLU(), nn.Linear(64, classes))

    def grow(self, smaller: dict[str, Tensor]) -> None:
        """Take the weights of a network with fewer layers; further layers are initialised to have no effect."""
        self.load_state_dict(self.state_dict() | smaller)
        for number, layer in enumerate(self.esm.layer):
            if f"esm.layer.{number}.out.weight" not in smaller:
                for linear in (layer.out, layer.down):
                    nn.init.zeros_(linear.weight)
                    nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, hidden: Tensor, composition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of hidden letters [hidden, 33], and of classes [n, classes], without and with the DNA."""
        states = self.esm(tokens)
        pooled = states[:, 1:-1].mean(1)
        return self.letters(states[hidden]), self.alone(pooled), self.beside(pooled) + self.composition(composition)


def published(esm: Esm) -> dict[str, Tensor]:
    """Return the encoder's weights by the keys of the published ESM-2 checkpoints."""
    state = {"embeddings.word_embeddings.weight": esm.words.weight}
    modules = {"encoder.emb_layer_norm_after": esm.last_norm}
    for number, layer in enumerate(esm.layer):
        key = f"encoder.layer.{number}"
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * esm.shape.width, (part + 1) * esm.shape.width)
            state[f"{key}.attention.self.{name}.weight"] = layer.qkv.weight[rows]
            state[f"{key}.attention.self.{name}.bias"] = layer.qkv.bias[rows]
        state[f"{key}.attention.self.rotary_embeddings.inv_freq"] = esm.frequencies
        modules |= {
            f"{key}.attention.LayerNorm": layer.attention_norm,
            f"{key}.attention.output.dense": layer.out,
            f"{key}.LayerNorm": layer.norm,
            f"{key}.intermediate.dense": layer.up,
            f"{key}.output.dense": layer.down,
        }
    for prefix, module in modules.items():
        state |= {f"{prefix}.{name}": value for name, value in module.named_parameters()}
    return {f"esm.{key}": value.detach().clone() for key, value in state.items()}


def write_checkpoint(esm: Esm, out: Path) -> None:
    """Write the encoder without its heads, in the layout of the published ESM-2 checkpoints."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(published(esm), out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["EsmForMaskedLM"],
        "model_type": "esm",
        "vocab_size": len(ESM_VOCABULARY),
        "mask_token_id": MASK,
        "pad_token_id": ESM_VOCABULARY.index("<pad>"),
        "hidden_size": esm.shape.width,
        "num_hidden_layers": esm.shape.layers,
        "num_attention_heads": esm.shape.heads,
        "intermediate_size": esm.shape.inner,
        "max_position_embeddings": 1026,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "token_dropout": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "torch_dtype": "float32",
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
