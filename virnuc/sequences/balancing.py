"""The draw of `--balance`: as many frames of the larger class as of the smaller, spread evenly over its groups.

As in VirNucPro each group gives the same share, and both divisions of vertebrates are one group. A group that has
fewer frames gives all it has, and the others more. Which frames of a group are kept is decided by their seeded hashes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from virnuc.sequences.frames import read_frames
from virnuc.sequences.staging import write_parquet
from virnuc.storage.draws import draw
from virnuc.storage.files import write_text


def balance(shards: Sequence[Path], drawn: Path, seed: int) -> None:
    """Rewrite the shards of the larger class with only the frames that are drawn.

    The highest hash to keep of each group is fixed in the file `drawn` before the first shard is rewritten, so a
    restart filters the remaining shards alike, and filtering a shard twice changes nothing.
    """
    if not drawn.is_file():
        hashes: dict[str, list[str]] = {}
        for shard in shards:
            hashes.setdefault(_group(shard), []).extend(_hashes(shard, seed))
        highest = _highest(hashes)
        write_text(drawn, json.dumps(highest))
    highest = json.loads(drawn.read_text(encoding="utf-8"))
    for shard in shards:
        if _group(shard) in highest:
            kept = [found <= highest[_group(shard)] for found in _hashes(shard, seed)]
            write_parquet(shard, read_frames(shard).filter(pa.array(kept, pa.bool_())))


def _hashes(shard: Path, seed: int) -> list[str]:
    return [draw(seed, frame_id) for frame_id in read_frames(shard, ["frame_id"])["frame_id"].to_pylist()]


def _group(shard: Path) -> str:
    group = shard.name.rpartition("-")[0]
    return "vertebrate" if group.startswith("vertebrate_") else group


def _highest(hashes: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the highest hash to keep of each group of the larger class."""
    viral = {group: found for group, found in hashes.items() if group == "viral"}
    others = {group: found for group, found in hashes.items() if group != "viral"}
    smaller, larger = sorted((viral, others), key=lambda side: sum(map(len, side.values())))
    quotas = share({group: len(found) for group, found in larger.items()}, sum(map(len, smaller.values())))
    return {group: sorted(found)[quotas[group] - 1] if quotas[group] else "" for group, found in larger.items()}


def share(available: Mapping[str, int], total: int) -> dict[str, int]:
    """Return how many of `total` each gives: equal numbers, unless one has fewer; then the others give more."""
    given, left = {}, total
    for place, name in enumerate(sorted(available, key=lambda name: (available[name], name))):
        given[name] = min(available[name], left // (len(available) - place))
        left -= given[name]
    return given
