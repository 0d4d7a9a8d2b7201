"""Weights on disk in the hub's layouts, read one tensor at a time without running a pickle.

They are in `model.safetensors` or its shards with an index, else in `pytorch_model.bin` or its shards, which torch
reads memory-mapped and with `weights_only`. Keys lose the prefix of the full model; those that an encoder does not
need, of its heads for example, are left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from virnuc.errors import DataError, EncoderError
from virnuc.runtime import derived_seed
from virnuc.storage.files import read_json
from virnuc.storage.tensors import load_plain

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class EncoderWeights(ABC):
    """Tensors by key; their shapes are known before any is read."""

    origin: str  # name in messages
    shapes: dict[str, tuple[int, ...]]

    @abstractmethod
    def read(self, key: str) -> Tensor:
        """Return one tensor on the CPU."""

    def fingerprint(self, key: str, tensor: Tensor) -> bytes:
        """Return the SHA-256 of a tensor's dtype and bytes."""
        digest = sha256(str(tensor.dtype).encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.digest()


class WeightFiles(EncoderWeights):
    """The weights of a directory in the hub's layout."""

    def __init__(self, directory: Path, prefix: str, is_ignored: Callable[[str], bool]) -> None:
        """Open the files of `directory`.

        Args:
            directory: holds one of `WEIGHT_FILES`.
            prefix: removed from each key that begins with it.
            is_ignored: whether an encoder does not need a key, given without prefix.

        Raises:
            EncoderError: there are no weights, or they cannot be read without running code.
        """
        self.origin = str(directory)
        self._tensors: dict[str, Callable[[], Tensor]] = {}
        self.shapes = {}
        for file in _weight_files(directory):
            for key, shape, read in _open(file):
                name = key.removeprefix(prefix)
                if is_ignored(name):
                    continue
                if name in self.shapes:
                    raise EncoderError(f"{directory}: {name} occurs twice; get the files again")
                self.shapes[name], self._tensors[name] = shape, read

    def read(self, key: str) -> Tensor:
        """Return one tensor on the CPU, in the dtype of the file.

        Raises:
            EncoderError: the file is damaged.
        """
        try:
            return self._tensors[key]()
        except (SafetensorError, OSError, RuntimeError) as error:
            raise EncoderError(f"{self.origin}: {key} cannot be read ({error}); get the file again") from error


class RandomWeights(EncoderWeights):
    """Seeded random weights of a given architecture, for timing and tests; they are marked as such everywhere."""

    def __init__(self, name: str, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
        """Take the place of the checkpoint of encoder `name`; `seed` and its key decide each tensor."""
        self.origin, self.shapes, self._seed = f"{name} (random weights)", dict(shapes), seed

    def read(self, key: str) -> Tensor:
        """Return a tensor: norms are the identity, biases 0, rotary frequencies as defined, all others N(0, 0.02)."""
        shape = self.shapes[key]
        if key.endswith("inv_freq"):
            return rotary_frequencies(shape[0])
        if key.endswith("bias"):
            return torch.zeros(shape)
        if "layernorm" in key.lower() or "layer_norm" in key.lower():
            return torch.ones(shape)
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "weights", key))
        return torch.empty(shape).normal_(0, 0.02, generator=generator)

    def fingerprint(self, key: str, tensor: Tensor) -> bytes:
        """Return what the tensor is made from, instead of its digest."""
        return f"random {self._seed}".encode()


def rotary_frequencies(count: int, base: float = 10000.0) -> Tensor:
    """Return the inverse frequencies of rotary positions as ESM-2 defines them, [count] float32."""
    return 1.0 / base ** (torch.arange(count, dtype=torch.float32) / count)


def _weight_files(directory: Path) -> list[Path]:
    """Return the files with a directory's weights; raise an EncoderError if one is missing."""
    found = next((directory / name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if found is None:
        raise EncoderError(f"{directory}: no weights; it needs one of {', '.join(WEIGHT_FILES)}")
    if found.suffix != ".json":
        return [found]
    names = read_json(found, EncoderError).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise EncoderError(f"{found}: has no weight_map from keys to files")
    files, present = sorted(set(names.values())), {path.name for path in directory.iterdir() if path.is_file()}
    for name in files:
        if name not in present:
            raise EncoderError(f"{found}: names {name}, which is not in its directory; get the missing shard")
    return [directory / name for name in files]


def _open(file: Path) -> Iterable[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """Return key, shape and a function that reads it for each tensor of a file."""
    try:
        if file.suffix == ".safetensors":
            return _open_safetensors(file)
        return _open_pickled(file)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise EncoderError(f"{file}: cannot be read ({error}); get the file again") from error


def _open_safetensors(file: Path) -> list[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    handle = safe_open(file, framework="pt")
    shapes = {key: tuple(handle.get_slice(key).get_shape()) for key in handle.keys()}  # noqa: SIM118
    return [(key, shape, lambda key=key: handle.get_tensor(key)) for key, shape in shapes.items()]  # type: ignore[misc]


def _open_pickled(file: Path) -> list[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    try:
        state = load_plain(file, mmap=True)
    except DataError as error:
        raise EncoderError(str(error)) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise EncoderError(f"{file}: not a dict of tensors")
    for key, tensor in state.items():  # with a stride of 0, a small file can claim any number of values
        if tensor.is_meta or tensor.layout is not torch.strided or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise EncoderError(f"{file}: {key} claims more values than the file holds")
    return [(key, tuple(tensor.shape), lambda tensor=tensor: tensor) for key, tensor in state.items()]  # type: ignore[misc]
