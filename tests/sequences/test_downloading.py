import errno
import gzip
import subprocess

import numpy as np
import pytest

from tests.shared.mirror import BREAK, mirrored
from virnuc.errors import DataError, UsageError, VirnucError
from virnuc.sequences.downloading import download
from virnuc.sequences.frames import frame_shards
from virnuc.sequences.preparing import prepare
from virnuc.settings import DownloadSettings, PrepareSettings
from virnuc.storage.manifest import verified_manifest

pytestmark = pytest.mark.e2e


@pytest.fixture
def mirror():
    random = np.random.default_rng(0)
    genomes = {
        f"{division}.{number}.genomic.gbff.gz": gzip.compress(
            f">{division}_{number}\n{''.join(random.choice(list('GC'), 20000))}\n".encode(), mtime=0
        )
        for division, count in (("viral", 2), ("plant", 4), ("archaea", 3))
        for number in range(1, count + 1)
    }
    with mirrored(genomes) as server:
        yield server


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a disk of 16 kB, and a function that enlarges the disk."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if mount("size=16k"):
        pytest.skip("cannot mount a tmpfs: needs root")
    yield place, lambda: mount("remount,size=1m")
    subprocess.run(["umount", place], check=True)


def fetch(mirror, out, waits=None, **settings):
    given = {"divisions": ("archaea", "plant", "viral"), "files": {"viral": "all", "plant": "2"}, "mirror": mirror.url}
    waits = [] if waits is None else waits
    return download(DownloadSettings(out=str(out), **(given | settings)), wait=waits.append)


def test_a_seeded_sample_of_each_division_is_fetched_and_becomes_frames(mirror, tmp_path):
    manifest = fetch(mirror, tmp_path / "refseq")
    names = [shard.path for shard in manifest.shards]
    assert [sum(name.startswith(f"{division}.") for name in names) for division in ("archaea", "plant", "viral")] == [
        1,
        2,
        2,
    ]
    for name in names:
        assert (tmp_path / "refseq" / name).read_bytes() == mirror.files[f"{name.split('.')[0]}/{name}"]
    assert manifest.counts == {
        "in": {"files": 9},
        "out": {"files": 5, "bytes": sum((tmp_path / "refseq" / name).stat().st_size for name in names)},
        "dropped": {"files_not_drawn": 4},
    }
    assert manifest.details["release"] == "231"
    assert verified_manifest(tmp_path / "refseq", "download") == manifest
    drawn = {tuple(s.path for s in fetch(mirror, tmp_path / f"{seed}", seed=seed).shards) for seed in range(6)}
    assert len(drawn) > 1
    mirror.shutdown()  # a finished directory needs no server
    assert fetch(mirror, tmp_path / "refseq") == manifest
    frames = tmp_path / "frames"
    prepare(PrepareSettings(source=str(tmp_path / "refseq"), out=str(frames), evidence="open"))
    assert {path.name.split("-")[0] for path in frame_shards(frames)} == {"archaea", "plant", "viral"}


def test_broken_connections_are_taken_up_where_they_broke_and_no_byte_is_sent_twice(mirror, tmp_path):
    undisturbed = fetch(mirror, tmp_path / "undisturbed")
    for name in mirror.files:
        mirror.faults[name] = [503, "break", "break", 503] if "viral" in name or "RELEASE" in name else []
    mirror.sent.clear()
    waits = []
    broken = fetch(mirror, tmp_path / "broken", waits)
    assert (broken.shards, broken.counts) == (undisturbed.shards, undisturbed.counts)
    assert mirror.sent["viral/viral.1.genomic.gbff.gz"] == len(mirror.files["viral/viral.1.genomic.gbff.gz"])
    assert set(waits) == {1, 2} and len(waits) == 9


def test_a_full_disk_loses_nothing_that_was_written(mirror, small_disk):
    disk, enlarge = small_disk
    with pytest.raises(OSError, match="No space left") as full:
        fetch(mirror, disk / "refseq", connections=1)
    assert full.value.errno == errno.ENOSPC
    assert not (disk / "refseq" / "manifest.json").exists()
    written = {path.name.removesuffix(".part"): path.stat().st_size for path in (disk / "refseq").rglob("*.gz*")}
    assert any(written.values())
    before = dict(mirror.sent)
    assert enlarge() == 0
    manifest = fetch(mirror, disk / "refseq", connections=1)
    assert verified_manifest(disk / "refseq", "download") == manifest
    for name, size in ((f"{shard.path.split('.')[0]}/{shard.path}", shard.path) for shard in manifest.shards):
        again = mirror.sent[name] - before.get(name, 0)
        assert again == len(mirror.files[name]) - written.get(size, 0)


def test_a_file_that_changes_in_the_middle_is_fetched_anew(mirror, tmp_path):
    name = "viral/viral.2.genomic.gbff.gz"
    mirror.changed = mirror.files[name]
    mirror.files[name] = bytes(5000)
    mirror.faults[name] = ["change"]
    fetch(mirror, tmp_path / "refseq")
    assert (tmp_path / "refseq" / "viral.2.genomic.gbff.gz").read_bytes() == mirror.changed
    assert mirror.sent[name] == BREAK + len(mirror.changed)


def test_wrong_bytes_are_noticed_by_the_checksum(mirror, tmp_path):
    name = "viral/viral.1.genomic.gbff.gz"
    mirror.faults[name] = ["wrong"]
    fetch(mirror, tmp_path / "once")
    mirror.faults[name] = ["wrong", "wrong"]
    with pytest.raises(DataError, match=r"viral\.1\.genomic\.gbff\.gz: twice its MD5 was not"):
        fetch(mirror, tmp_path / "twice")
    assert not (tmp_path / "twice" / "viral.1.genomic.gbff.gz").exists()
    fetch(mirror, tmp_path / "twice")


def test_a_server_without_ranges_still_serves(mirror, tmp_path):
    mirror.ranges = False
    name = "viral/viral.1.genomic.gbff.gz"
    mirror.faults[name] = ["break"]
    fetch(mirror, tmp_path / "refseq")
    assert mirror.sent[name] == BREAK + len(mirror.files[name])


def test_what_waiting_cannot_help_is_an_error_at_once_and_the_rest_after_eight_times(mirror, tmp_path):
    name = "viral/viral.1.genomic.gbff.gz"
    mirror.faults[name] = [404]
    with pytest.raises(DataError, match="the server answers 404"):
        fetch(mirror, tmp_path / "gone")
    mirror.faults[name] = [503] * 8
    waits = []
    with pytest.raises(VirnucError, match=r"503.*8 times; give the same command again to resume"):
        fetch(mirror, tmp_path / "down", waits)
    assert waits == [1, 2, 4, 8, 16, 32, 60]
    fetch(mirror, tmp_path / "down")


def test_releases_are_not_mixed(mirror, tmp_path):
    mirror.faults["viral/viral.1.genomic.gbff.gz"] = [404]
    with pytest.raises(DataError, match="404"):
        fetch(mirror, tmp_path / "refseq")
    mirror.files["RELEASE_NUMBER"] = b"232"
    with pytest.raises(DataError, match="begun with release 231, but the server now has 232"):
        fetch(mirror, tmp_path / "refseq")
    mirror.files["RELEASE_NUMBER"] = b"<html>"
    with pytest.raises(DataError, match="is '<html>', not a number"):
        fetch(mirror, tmp_path / "other")


def test_wrong_usage():
    with pytest.raises(UsageError, match="N or all"):
        DownloadSettings(files={"viral": "some"})
    with pytest.raises(UsageError, match="did you mean 'viral'"):
        DownloadSettings(files={"virus": "1"})
    with pytest.raises(UsageError, match="give --divisions"):
        DownloadSettings(divisions=())
