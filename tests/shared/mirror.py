"""A RefSeq release, served over HTTP on this machine with ranges, broken connections and other faults."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BREAK = 700  # bytes after which a breaking server closes the connection


class Mirror(ThreadingHTTPServer):
    """A release on localhost; `faults` lists the faults of successive requests for each file."""

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
        body = whole[begin:]
        if fault == "wrong":
            body = bytes(len(body))
        if fault in ("break", "change"):
            body = body[:BREAK]
        mirror.sent[name] = mirror.sent.get(name, 0) + len(body)  # before an answer that a client may not wait for
        self.send_response(206 if begin else 200)
        self.send_header("ETag", version)
        self.send_header("Content-Length", str(len(whole) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        self.wfile.write(body)
        if fault == "change":
            mirror.files[name], mirror.versions[name] = mirror.changed, "2"

    def log_message(self, *arguments):
        pass


@contextmanager
def mirrored(genomes: Mapping[str, bytes]) -> Iterator[Mirror]:
    """Serve files, by their names `<division>.<number>.genomic.gbff.gz`, as release 231."""
    files = {f"{name.split('.')[0]}/{name}": data for name, data in genomes.items()}
    sums = "".join(f"{hashlib.md5(data).hexdigest()}\t{name}\n" for name, data in genomes.items())
    other = f"{'0' * 32}\tviral.1.protein.faa.gz\n"
    catalogue = {"RELEASE_NUMBER": b"231\n", "release-catalog/release231.files.installed": (sums + other).encode()}
    server = Mirror(files | catalogue)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
