"""The output directory of a stage: the stage may be stopped at any moment, and the same command finishes it.

The manifest is written last. Until then `.progress/` holds the command that began the directory, so that no other one
finishes it, the stage's notes for resuming, and a lock for each claimed shard. One process works alone
in a directory, or several share it, each claiming shards that no other has. The kernel drops the locks of a killed
process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virnuc.errors import DataError
from virnuc.storage.files import exclusive, remove_leftovers, write_text
from virnuc.storage.manifest import FORMAT_VERSIONS, Manifest, check_reusable, describe_shard, has_manifest

_LOCK = ".lock"
PROGRESS = ".progress"


@dataclass(frozen=True)
class Claim:
    """A shard that this process has locked and will write; `lock` is closed when it is written."""

    name: str  # path below the directory, with forward slashes
    target: Path
    lock: ExitStack


@dataclass(frozen=True)
class OutputDirectory:
    """A directory with its kind, and the parameters and inputs that determine its content."""

    directory: Path
    kind: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str] | None = field(default_factory=dict)  # None: known only when all is read

    @property
    def progress(self) -> Path:
        """Directory of the notes for resuming; it is deleted when the manifest is written."""
        return self.directory / PROGRESS

    @contextmanager
    def alone(self) -> Iterator[Manifest | None]:
        """Lock the directory; yield the manifest if it is finished, None if it has to be filled.

        Raises:
            DataError: the directory was made or begun with other parameters or from other inputs.
        """
        with exclusive(self.directory / _LOCK):
            manifest = self._begin()
            if manifest is None:
                remove_leftovers(self.directory)
            yield manifest

    def shared(self) -> Manifest | None:
        """Return the manifest of a finished directory, None for one that several processes may fill by `claims`.

        Raises:
            DataError: the directory was made or begun with other parameters or from other inputs.
        """
        with exclusive(self.directory / _LOCK):
            return self._begin()

    def claims(self, names: Sequence[str]) -> Iterator[Claim]:
        """Yield the shards that are still missing, each locked; those that other processes hold are waited for last."""
        busy = []
        for name in names:
            if (self.directory / name).exists():
                continue
            claim = self.claim(name, wait=False)
            if claim is None:
                busy.append(name)
            else:
                yield claim
        for name in busy:
            claim = self.claim(name, wait=True)
            if claim is not None:
                yield claim

    def claim(self, name: str, wait: bool) -> Claim | None:
        """Lock a shard; None if another process has locked it or has written it by now."""
        target = self.directory / name
        with ExitStack() as stack:
            lock = self.progress / f"{name.replace('/', '.')}.lock"
            if not stack.enter_context(exclusive(lock, wait=wait)) or target.exists():
                return None
            for leftover in target.parent.glob(f".{target.name}.*.partial"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            return Claim(name, target, stack.pop_all())
        return None

    def complete(
        self, rows: Mapping[str, int], counts: dict[str, Any], details: dict[str, Any] | None = None
    ) -> Manifest:
        """Write the manifest of finished files (path below the directory: rows), under `alone`."""
        manifest = Manifest(
            kind=self.kind,
            parameters=dict(self.parameters),
            inputs=dict(self.inputs or {}),
            counts=counts,
            shards=tuple(describe_shard(self.directory, self.directory / name, count) for name, count in rows.items()),
            details=details or {},
        )
        manifest.write(self.directory)
        shutil.rmtree(self.progress, ignore_errors=True)
        return manifest

    def complete_shared(self, rows: Mapping[str, int], counts: dict[str, Any], details: dict[str, Any]) -> Manifest:
        """Write the manifest of a shared directory, unless another process has done so."""
        with exclusive(self.directory / _LOCK):
            if has_manifest(self.directory):
                return check_reusable(self.directory, self.parameters, self.inputs, self.kind)
            return self.complete(rows, counts, details)

    def _begin(self) -> Manifest | None:
        if has_manifest(self.directory):
            shutil.rmtree(self.progress, ignore_errors=True)  # of a process killed right after it wrote the manifest
            return check_reusable(self.directory, self.parameters, self.inputs, self.kind)
        command: dict[str, Any] = {"parameters": dict(self.parameters), "inputs": dict(self.inputs or {})}
        if FORMAT_VERSIONS[self.kind] > 1:
            command["format_version"] = FORMAT_VERSIONS[self.kind]
        path, text = self.progress / "command.json", json.dumps(command, sort_keys=True)
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise DataError(
                f"{self.directory}: begun with other parameters, weights or inputs; "
                "give another --out or delete the directory"
            )
        write_text(path, text)
        return None
