"""Encoders: DNA or a protein to a vector, by native code, from weights that are checked."""

from virnuc.encoders.interface import Encoder, EncoderProvenance, Tokens
from virnuc.encoders.loading import EXAMPLES
from virnuc.encoders.table import (
    ENCODERS,
    check_encoders,
    find_encoder,
    load_encoder,
    load_recorded,
    recorded_directory,
)
