"""Files that appear whole or not at all, their digests, and locks between processes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import yaml

from virnuc.errors import DataError, UsageError

_MOST_BYTES_OF_JSON = 50_000_000
_MOST_BYTES_OF_YAML = 1_000_000
_DEEPEST_YAML = 20  # nodes, one in another


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the directory of `target`; on success it is synced and renamed to `target`.

    The parent directory is made if it does not exist. If the block raises, or the process is killed, `target` is not
    changed: readers never see half a file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        _sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write `text` as UTF-8 to `target`, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def link_latest(target: Path, name: str) -> None:
    """Make the symbolic link `name`, in the directory of `target`, point to it; an older link is replaced at once."""
    with tempfile.TemporaryDirectory(prefix=".link", dir=target.parent) as temporary:
        link = Path(temporary) / name
        link.symlink_to(target.name)
        link.replace(target.parent / name)


def read_json(path: Path, error: type[DataError] = DataError) -> dict[str, Any]:
    """Read a JSON object from a file that is not trusted.

    Raises:
        DataError: or its kind `error`: the file is missing, larger than 50 MB, not a JSON object, or gives a key twice.
    """
    try:
        if path.stat().st_size > _MOST_BYTES_OF_JSON:
            raise error(f"{path}: too large for such a file")
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct)
    except (ValueError, OSError, RecursionError) as problem:
        raise error(f"{path}: not readable as JSON ({problem})") from problem
    if not isinstance(document, dict):
        raise error(f"{path}: not a JSON object")
    return document


def read_yaml(path: Path, loader: type[yaml.SafeLoader] | type[yaml.BaseLoader]) -> Any:
    """Read a YAML file that is not trusted.

    Raises:
        UsageError: the file is missing, no file, larger than 1 MB, not YAML, nested too deep, or gives a key twice.
    """

    class Distinct(loader):  # type: ignore[valid-type,misc]
        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            self.depth += 1
            if self.depth > _DEEPEST_YAML:
                raise yaml.YAMLError("nested too deep")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return cast("yaml.Node | None", node)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            if twice := next((key for key in keys if keys.count(key) > 1), None):
                raise yaml.YAMLError(f"{twice} occurs twice")
            return dict(super().construct_mapping(node, deep))

    try:
        if path.stat().st_size > _MOST_BYTES_OF_YAML:
            raise UsageError(f"{path}: too large for such a file")
        return yaml.load(path.read_text(encoding="utf-8"), Loader=Distinct)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as YAML ({' '.join(str(error).split())[:200]})") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files that a killed process left in `directory` (call it under `exclusive`)."""
    for leftover in directory.rglob(".*.partial"):
        leftover.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def exclusive(lock: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an advisory lock on the file `lock`; yield whether it was obtained.

    With `wait=False` a lock held by another process yields False at once. The kernel releases the lock when its
    process ends, so a killed process never blocks the next one.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
