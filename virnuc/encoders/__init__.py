"""Encoders: DNA or a protein to a vector, by native code, from weights that prove themselves."""

from virnuc.encoders.interface import Encoder, EncoderProvenance, Progress, Tokens
from virnuc.encoders.spec import EncoderSpec
from virnuc.encoders.table import ENCODERS, find_encoder, load_encoder

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderProvenance",
    "EncoderSpec",
    "Progress",
    "Tokens",
    "find_encoder",
    "load_encoder",
]
