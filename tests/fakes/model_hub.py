"""A fake Hugging Face hub and plain file host on loopback.

It has the hub's file layout, HEAD with `etag` and `x-repo-commit`, Range, and broken connections.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeModelHub:
    """Serve `folder/<namespace>/<repository>/<file>` like the hub, and `folder/<path>` like a plain host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str]] = []  # (method, file name)
        self.ranges: list[str] = []
        self.break_after: dict[str, int] = {}  # file name → bytes after which the connection is dropped, once
        self.damage: set[str] = set()  # file names served with wrong bytes
        self.url = ""

    def count(self, method: str) -> int:
        return sum(1 for each, _ in self.requests if each == method)


@contextmanager
def fake_model_hub(folder: Path) -> Iterator[FakeModelHub]:
    hub = FakeModelHub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = hub.folder / self.path.lstrip("/").replace("/resolve/main", "").partition("?")[0]
            hub.requests.append((self.command, path.name))
            if not path.is_file():
                self.send_response(404)
                missing = "EntryNotFound" if path.parent.is_dir() else "RepoNotFound"
                self.send_header("X-Error-Code", missing)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = path.read_bytes()
            start = 0
            if wanted := self.headers.get("Range"):
                hub.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
            large = path.suffix in {".safetensors", ".th"}
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{sha256(data).hexdigest() if large else sha256(data).hexdigest()[:40]}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if not with_body:
                return
            body = data[start:]
            if path.name in hub.damage:
                body = bytes(len(body))
            limit = hub.break_after.pop(path.name, None)
            self.wfile.write(body[:limit])
            if limit is not None:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
