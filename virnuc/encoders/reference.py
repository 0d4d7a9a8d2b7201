"""Slow reference implementations that read the same files, which the native encoders are verified against.

For ESM-2 it is transformers' own `EsmModel`. MosaicBERT has no implementation that runs everywhere, so its formulas are
written out here in float64, for one sequence at a time, with attention as softmax(q k / sqrt(d) - slope |i - j|).
Neither shares code with the native networks, except for reading single tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor

from virnuc.encoders import esm, mosaicbert
from virnuc.encoders.tokens import ESM_VOCABULARY
from virnuc.encoders.weights import WeightFiles, read_json, rotary_frequencies
from virnuc.errors import EncoderError

EPSILON = {"protein": 1e-5, "dna": 1e-12}  # of the layer norms of all published ESM-2 and MosaicBERT models
_NOT_IN_FILES = ("contact_head.", "rotary_embeddings.inv_freq")  # parts of EsmModel that are not used, or set below

Reference = Callable[[str], Tensor]  # the embedding of one sequence, [dimension] float32


def esm_reference(directory: Path) -> tuple[str, Reference]:
    """Return the reference's name and a function that embeds a protein by it, for an ESM-2 model in `directory`.

    `from_pretrained` drops the rotary frequencies of `fast_esm` files and computes them anew, so the stored ones are
    copied into the model afterwards.

    Raises:
        EncoderError: the files lack weights of the model.
    """
    from transformers import EsmConfig, EsmModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    known = {"layer_norm_eps": EPSILON["protein"], "pad_token_id": 1, "mask_token_id": 32}
    config = EsmConfig(**(read_json(directory / "config.json") | known))
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
    model, loaded = cast(Any, EsmModel).from_pretrained(directory, config=config, add_pooling_layer=False, **options)
    missing = [key for key in loaded["missing_keys"] if not key.startswith(_NOT_IN_FILES)]
    if missing or loaded["mismatched_keys"]:
        raise EncoderError(f"{directory}: transformers does not find {', '.join(sorted(missing)[:3])} in the files")
    files = WeightFiles(directory, esm.PREFIX, esm.is_ignored)
    stored = sorted(key for key in files.shapes if key.endswith("inv_freq"))
    if stored:
        model.rotary_embeddings.inv_freq.copy_(files.read(stored[0]))
    model.eval()

    @torch.inference_mode()
    def embed(protein: str) -> Tensor:
        ids = torch.tensor([[0, *(ESM_VOCABULARY.index(letter) for letter in protein), 2]])
        states: Tensor = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        return states[1:-1].mean(0)

    return f"EsmModel of transformers {metadata.version('transformers')}", embed


def mosaicbert_reference(directory: Path) -> tuple[str, Reference]:
    """Return the reference's name and a function that embeds DNA by it, for a MosaicBERT model in `directory`."""
    config = read_json(directory / "config.json")
    heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
    files = WeightFiles(directory, mosaicbert.PREFIX, mosaicbert.is_ignored)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def read(key: str) -> Tensor:
        return files.read(key).double()

    def norm(states: Tensor, key: str) -> Tensor:
        centred = states - states.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + EPSILON["dna"]).rsqrt()
        return centred * scale * read(f"{key}.weight") + read(f"{key}.bias")

    def linear(states: Tensor, key: str) -> Tensor:
        return states @ read(f"{key}.weight").T + read(f"{key}.bias")

    def attention(states: Tensor, key: str) -> Tensor:
        places = torch.arange(len(states), dtype=torch.float64)
        distance = (places[:, None] - places[None, :]).abs()
        query, keys, value = linear(states, f"{key}.Wqkv").chunk(3, dim=1)
        width = states.shape[1] // heads
        found = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            scores = query[:, own] @ keys[:, own].T / math.sqrt(width) - _slope(head, heads) * distance
            found.append(scores.softmax(-1) @ value[:, own])
        return torch.cat(found, dim=1)

    @torch.inference_mode()
    def embed(dna: str) -> Tensor:
        words = read("embeddings.word_embeddings.weight")[tokenizer.encode(dna.upper()).ids]
        states = norm(words + read("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
        for layer in range(layers):
            key = f"encoder.layer.{layer}"
            attended = linear(attention(states, f"{key}.attention.self"), f"{key}.attention.output.dense")
            states = norm(states + attended, f"{key}.attention.output.LayerNorm")
            gate, inner = (states @ read(f"{key}.mlp.gated_layers.weight").T).chunk(2, dim=1)
            fed = linear(gate * (1 + torch.erf(gate / math.sqrt(2))) / 2 * inner, f"{key}.mlp.wo")
            states = norm(states + fed, f"{key}.mlp.layernorm")
        return states.mean(0).float()

    return "plain attention in float64", embed


def _slope(head: int, heads: int) -> float:
    """Return ALiBi's slope of a head: with 12 heads 2^-1 to 2^-8 for the first 8, then 2^-0.5, 2^-1.5, ..."""
    power = 2 ** int(math.log2(heads))
    return float(2 ** (-8 * (head + 1) / power if head < power else -4 * (2 * (head - power) + 1) / power))


def odd_frequencies(inv_freq: Tensor) -> list[int]:
    """Return the layers whose rotary frequencies, [layers, half], are not ESM-2's, exact or rounded to float16."""
    defined = rotary_frequencies(inv_freq.shape[1])
    allowed = (inv_freq - defined).abs() <= defined * 2**-11  # half a unit in the last place of a float16
    alike = (inv_freq == inv_freq.mode(dim=0).values).all(dim=1)
    return torch.nonzero(~(allowed.all(dim=1) & alike)).flatten().tolist()
