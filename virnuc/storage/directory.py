"""A directory of shards, written by one or several processes, each shard once; it can be interrupted and finished.

The manifest is written last. Until then `.progress/` holds the command that began the directory, so that no other
command finishes it, and a lock for each shard. The kernel releases the locks of a killed process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnuc.errors import DataError
from virnuc.storage.files import exclusive, write_text
from virnuc.storage.manifest import Manifest, check_reusable, describe_shard, has_manifest

_WORK = ".progress"


@dataclass(frozen=True)
class Claim:
    """A shard that this process has locked and will write; `lock` is closed when it is written."""

    name: str  # path below the directory, with forward slashes
    target: Path
    lock: ExitStack


@dataclass(frozen=True)
class ShardedOutput:
    """A directory of shards, its parameters and its inputs."""

    directory: Path
    kind: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]

    def finished(self) -> Manifest | None:
        """Return the manifest if the directory is finished; if it is not, record the command that fills it.

        Raises:
            DataError: the directory was made or begun with other parameters or from other inputs.
        """
        with exclusive(self.directory / ".lock"):
            if has_manifest(self.directory):
                return check_reusable(self.directory, self.parameters, self.inputs, self.kind)
            path = self.directory / _WORK / "command.json"
            command = json.dumps({"parameters": self.parameters, "inputs": self.inputs}, sort_keys=True)
            if path.is_file() and path.read_text(encoding="utf-8") != command:
                raise DataError(
                    f"{self.directory}: begun with other parameters, weights or inputs; "
                    "give another --out or delete the directory"
                )
            write_text(path, command)
        return None

    def claims(self, names: Sequence[str]) -> Iterator[Claim]:
        """Yield the shards still to be written, each locked; those that another process has locked come last."""
        busy = []
        for name in names:
            if (self.directory / name).exists():
                continue
            claim = self._claim(name, wait=False)
            if claim is None:
                busy.append(name)
            else:
                yield claim
        for name in busy:
            claim = self._claim(name, wait=True)
            if claim is not None:
                yield claim

    def _claim(self, name: str, wait: bool) -> Claim | None:
        """Lock a shard; return None if another process has locked it or has written it in the meantime."""
        target = self.directory / name
        with ExitStack() as stack:
            lock = self.directory / _WORK / f"{name.replace('/', '.')}.lock"
            if not stack.enter_context(exclusive(lock, wait=wait)) or target.exists():
                return None
            for leftover in target.parent.glob(f".{target.name}.*.partial"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            return Claim(name, target, stack.pop_all())
        return None

    def finish(self, rows: Mapping[str, int], counts: dict[str, Any], details: dict[str, Any]) -> Manifest:
        """Write the manifest once all shards are there, unless another process has done so."""
        with exclusive(self.directory / ".lock"):
            if has_manifest(self.directory):
                return check_reusable(self.directory, self.parameters, self.inputs, self.kind)
            manifest = Manifest(
                kind=self.kind,
                parameters=dict(self.parameters),
                inputs=dict(self.inputs),
                counts=counts,
                shards=tuple(describe_shard(self.directory, self.directory / name, n) for name, n in rows.items()),
                details=details,
            )
            manifest.write(self.directory)
            shutil.rmtree(self.directory / _WORK, ignore_errors=True)
        return manifest
