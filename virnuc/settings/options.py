"""What a parameter is: type, default, help text, range, and whether it decides a result, declared once at its field.

A value is parsed once, here, and keeps its type from then on. `plain` writes it back as text, for
command lines, MLflow and manifests.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from typing import Any

from virnuc.errors import UsageError, unknown_name


@dataclass(frozen=True)
class FeatureSource:
    """A directory of one feature set."""

    directory: str
    chunk_size: int = 0  # bp; 0 where the directory's own record is to be taken

    def __str__(self) -> str:
        return f"{self.directory}@{self.chunk_size}" if self.chunk_size else self.directory


# Bounds of a number: how each is compared with the value, and in words.
_BOUNDS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "minimum": (operator.ge, "of at least"),
    "above": (operator.gt, "above"),
    "maximum": (operator.le, "at most"),
    "below": (operator.lt, "below"),
}


def option(default: Any, help: str, *, choices: tuple[str, ...] = (), decisive: bool = True, **limits: float) -> Any:
    """Declare a parameter of a stage.

    Args:
        default: its value where none is given; allowed even outside the limits.
        help: for the command line.
        choices: the only values allowed, of each item where the value is a list.
        decisive: whether another value can give another result.
        limits: bounds of a number: `minimum`, `above`, `maximum`, `below`.
    """
    bounds = [(*_BOUNDS[name], bound) for name, bound in limits.items()]
    return _field(default, {"help": help, "choices": choices, "decisive": decisive, "bounds": bounds})


def like(stage: type[Settings], name: str, default: Any = MISSING, help: str = "") -> Any:
    """Declare a parameter that another stage also has, with the same default and help unless others are given."""
    known = stage.__dataclass_fields__[name]
    metadata = known.metadata | ({"help": help} if help else {})
    return _field(default_of(known) if default is MISSING else default, metadata)


def _field(default: Any, metadata: Mapping[str, Any]) -> Any:
    if isinstance(default, dict):
        return field(default_factory=partial(dict, default), metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(declared: Field[Any]) -> Any:
    """Return the default of a field."""
    return declared.default if declared.default_factory is MISSING else declared.default_factory()


def flag_name(name: str) -> str:
    """Return a field's name as it is written on a command line."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Settings:
    """The parameters of a stage.

    Raises:
        UsageError: a value that is not among its choices or outside its range.
    """

    def __post_init__(self) -> None:
        """Check each value by itself; a stage adds what concerns several."""
        for declared in fields(self):
            _check(declared, getattr(self, declared.name))

    def plain(self) -> dict[str, str | int | float]:
        """Return all values by name, as a command line would have them: lists and mappings joined by commas."""
        return {declared.name: plain(getattr(self, declared.name)) for declared in fields(self)}

    def document(self) -> dict[str, Any]:
        """Return all values by name, as a YAML file would have them."""
        return {declared.name: _document(getattr(self, declared.name)) for declared in fields(self)}

    def decisive(self) -> dict[str, str | int | float]:
        """Return the plain values of the parameters that decide the result."""
        return {d.name: plain(getattr(self, d.name)) for d in fields(self) if d.metadata["decisive"]}


def plain(value: Any) -> str | int | float:
    """Return a parameter's value as a number or as the text that gives it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ",".join(f"{name}={source}" for name, source in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value  # a number or a text


def _document(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(map(str, value))
    return dict(value) if isinstance(value, Mapping) else value


def parse_list(text: str) -> tuple[str, ...]:
    """Read `A,B` into a tuple."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def parse_pairs(text: str) -> dict[str, str]:
    """Read `NAME=VALUE,NAME=VALUE` into a mapping; text after a comma that holds no `=` belongs to the value before it.

    Raises:
        UsageError: an item without a name or a value.
    """
    pairs: dict[str, str] = {}
    for item in parse_list(text):
        name, separator, value = map(str.strip, item.partition("="))
        if pairs and not separator:
            pairs[next(reversed(pairs))] += f",{item}"
            continue
        if not (name and value):
            raise UsageError(f"{item!r}: write NAME=VALUE, several joined by commas")
        pairs[name] = value
    return pairs


def parse_features(text: str) -> tuple[FeatureSource, ...]:
    """Read `DIR,DIR@BP` into feature sources.

    Raises:
        UsageError: the text after an @ is not a number.
    """
    sources = []
    for item in parse_list(text):
        directory, separator, size = item.partition("@")
        if separator and not size.isdecimal():
            raise UsageError(f"{item!r}: the chunk size in bp must follow the @")
        sources.append(FeatureSource(directory, int(size or 0)))
    return tuple(sources)


# How a list or a mapping is read from text, by its field's annotation.
COLLECTIONS: Mapping[str, Callable[[str], Any]] = {
    "tuple[str, ...]": parse_list,
    "Mapping[str, str]": parse_pairs,
    "tuple[FeatureSource, ...]": parse_features,
}
_SCALARS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": {"yes": True, "true": True, "no": False, "false": False}.__getitem__,
}


def parse(declared: Field[Any], text: str) -> Any:
    """Return the value of a parameter that `text` gives.

    Raises:
        UsageError: the text is of another type.
    """
    try:
        return {**_SCALARS, **COLLECTIONS}[str(declared.type)](text)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{flag_name(declared.name)} {text!r}: not a value of type {declared.type}") from error


def _check(declared: Field[Any], value: Any) -> None:
    choices, bounds = declared.metadata["choices"], declared.metadata["bounds"]
    if value == default_of(declared):
        return
    for item in value if isinstance(value, tuple) else (value,):
        if choices and item not in choices:
            raise unknown_name(f"value of {flag_name(declared.name)}", str(item), choices)
    if not all(fits(value, bound) for fits, _, bound in bounds):
        allowed = " and ".join(f"{words} {bound}" for _, words, bound in bounds)
        raise UsageError(f"{flag_name(declared.name)} {value}: use a number {allowed}")


PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
MIN_CHUNK_SIZE = 30  # bp
REFSEQ_DIVISIONS = (
    "archaea",
    "bacteria",
    "fungi",
    "invertebrate",
    "plant",
    "protozoa",
    "vertebrate_mammalian",
    "vertebrate_other",
    "viral",
)

# Parameters of several stages.
chunk_size = partial(option, minimum=MIN_CHUNK_SIZE)
seed = partial(option, 42, minimum=0, below=2**63)
out = partial(option, decisive=False)
device = partial(
    option, "auto", help="Device to compute on: auto, cpu, cuda or cuda:N. If several are named, the first is used."
)
engine = partial(
    option,
    "local",
    help="Where workers run: local: in processes on this machine; ray: on the Ray cluster at RAY_ADDRESS, or on a "
    "temporary one on this machine.",
    choices=("local", "ray"),
    decisive=False,
)
workers = partial(option, 1, help="Number of workers on CPUs; they share the cores.", minimum=1, decisive=False)
precision = partial(
    option, "fp32", "Precision of the encoders; auto chooses a fast one for the device.", choices=PRECISIONS
)
batch_tokens = partial(
    option,
    16384,
    "Tokens in a batch; nothing is padded. Halved when the device's memory is full.",
    minimum=1,
    decisive=False,
)
weights = partial(
    option,
    {},
    "Directories of encoders' weights, as NAME=DIR joined by commas; NAME=random builds the true architecture with "
    "seeded random weights, for timing only. Default: the hub cache.",
)
revisions = partial(
    option,
    {},
    "Commits, branches or tags of encoders' hub repositories, as NAME=REVISION joined by commas, instead of the "
    "pinned ones.",
)
