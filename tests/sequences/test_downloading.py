import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from virnuc.errors import DataError, UsageError, VirnucError
from virnuc.sequences.downloading import download
from virnuc.sequences.frames import frame_shards
from virnuc.sequences.preparing import prepare
from virnuc.settings import DownloadSettings, PrepareSettings
from virnuc.storage.manifest import verified_manifest

BREAK = 700  # bytes after which a breaking server closes the connection


class Mirror(ThreadingHTTPServer):
    """A release on localhost; `faults` holds what is to go wrong with a file, one after the other."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.faults, self.sent, self.ranges = files, {}, {}, True
        self.versions = dict.fromkeys(files, "1")
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        mirror, name = self.server, self.path.lstrip("/")
        fault = mirror.faults.get(name) and mirror.faults[name].pop(0)
        if name not in mirror.files or fault in (404, 503):
            return self.send_error(fault or 404)
        whole, version = mirror.files[name], f'"{mirror.versions[name]}"'
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")
        begin = int(asked) if mirror.ranges and self.headers.get("If-Range", version) == version else 0
        if begin and begin >= len(whole):
            return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("ETag", version)
        self.send_header("Content-Length", str(len(whole) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        body = whole[begin:]
        if fault == "wrong":
            body = bytes(len(body))
        if fault in ("break", "change"):
            body = body[:BREAK]
        self.wfile.write(body)
        mirror.sent[name] = mirror.sent.get(name, 0) + len(body)
        if fault == "change":
            mirror.files[name], mirror.versions[name] = mirror.changed, "2"

    def log_message(self, *arguments):
        pass


@pytest.fixture
def mirror():
    random = np.random.default_rng(0)
    genomes = {
        f"{division}/{division}.{number}.genomic.gbff.gz": gzip.compress(
            f">{division}_{number}\n{''.join(random.choice(list('GC'), 20000))}\n".encode(), mtime=0
        )
        for division, count in (("viral", 2), ("plant", 4), ("archaea", 3))
        for number in range(1, count + 1)
    }
    sums = "".join(f"{hashlib.md5(data).hexdigest()}\t{name.split('/')[1]}\n" for name, data in genomes.items())
    other = f"{'0' * 32}\tviral.1.protein.faa.gz\n"
    catalogue = {"RELEASE_NUMBER": b"231\n", "release-catalog/release231.files.installed": (sums + other).encode()}
    server = Mirror(genomes | catalogue)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


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
    with pytest.raises(DataError, match="begun with release 231, but the server has 232 now"):
        fetch(mirror, tmp_path / "refseq")
    mirror.files["RELEASE_NUMBER"] = b"<html>"
    with pytest.raises(DataError, match="is '<html>', no number"):
        fetch(mirror, tmp_path / "other")


def test_wrong_usage():
    with pytest.raises(UsageError, match="N or all"):
        DownloadSettings(files={"viral": "some"})
    with pytest.raises(UsageError, match="did you mean 'viral'"):
        DownloadSettings(files={"virus": "1"})
    with pytest.raises(UsageError, match="give --divisions"):
        DownloadSettings(divisions=())
