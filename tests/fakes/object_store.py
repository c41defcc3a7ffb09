"""A real S3 server on loopback: OpenStack Swift with its s3api, which checks every signature.

Four processes (proxy, account, container, object) with their files in one folder.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from swift.common.ring import RingBuilder

from config.settings import Storage as StorageSettings
from config.settings import load
from engine.storage.object_store import ObjectStorage, open_storage
from tests.fixtures.ports import free_ports

ACCESS_KEY, SECRET_KEY, REGION, BUCKET = "stem:tester", "a-secret-of-the-tests", "us-east-1", "stems"

_STORAGE_SERVER = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
workers = 0
user = {user}
log_statsd_host =
fallocate_reserve = 0

[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
workers = 0
user = {user}

[pipeline:main]
pipeline = gatekeeper s3api tempauth slo proxy-server

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:s3api]
use = egg:swift#s3api
location = {region}
allow_multipart_uploads = true
min_segment_size = 65536

[filter:tempauth]
use = egg:swift#tempauth
user_stem_tester = {secret} .admin

[filter:slo]
use = egg:swift#slo
min_segment_size = 1

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""

_KEY = re.compile("<Key>(.*?)</Key>")
_HASH = "[swift-hash]\nswift_hash_path_prefix = tests\nswift_hash_path_suffix = tests\n\n"
_POLICY = "[storage-policy:0]\nname = one\ndefault = yes\n\n[swift-constraints]\nmax_file_size = 5368709122\n"


class S3Server:
    """The server at `url`. `pause` makes it unresponsive until `resume`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.ports = dict(zip(("account", "container", "object", "proxy"), free_ports(4), strict=True))
        self.url = f"http://127.0.0.1:{self.ports['proxy']}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_configuration()

    def _write_configuration(self) -> None:
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        (self.folder / "swift.conf").write_text(_HASH + _POLICY)
        for kind, port in self.ports.items():
            text = _PROXY if kind == "proxy" else _STORAGE_SERVER
            configuration = text.format(
                port=port, folder=self.folder, kind=kind, user=user, region=REGION, secret=SECRET_KEY
            )
            (self.folder / f"{kind}.conf").write_text(configuration)
            if kind == "proxy":
                continue
            ring = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
            device = {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": "127.0.0.1", "port": port, "device": "disk"}
            ring.add_dev(device)
            ring.rebalance()
            ring.get_ring().save(str(self.folder / f"{kind}.ring.gz"))
        (self.folder / "devices" / "disk").mkdir(parents=True)

    def start(self, *kinds: str) -> None:
        for kind in kinds or tuple(self.ports):
            with (self.folder / f"{kind}.log").open("ab") as log:
                self._processes[kind] = subprocess.Popen(
                    [Path(sys.executable).with_name(f"swift-{kind}-server"), self.folder / f"{kind}.conf", "-v"],
                    stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                )  # fmt: skip
        for kind in kinds or tuple(self.ports):
            self._wait_for(kind)

    def _wait_for(self, kind: str) -> None:
        ends = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.ports[kind]), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > ends or self._processes[kind].poll() is not None:
                    raise AssertionError((self.folder / f"{kind}.log").read_text()[-4000:]) from None
                time.sleep(0.05)

    def stop(self, *kinds: str) -> None:
        for kind in kinds or tuple(self._processes):
            process = self._processes.pop(kind)
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def create_bucket(self) -> None:
        self._request("PUT", f"/{BUCKET}")

    def put(self, key: str, content: bytes) -> None:
        self._request("PUT", f"/{BUCKET}/{quote(key)}", content=content)

    def keys(self, prefix: str) -> list[str]:
        return _KEY.findall(self._request("GET", f"/{BUCKET}", f"list-type=2&prefix={quote(prefix, safe='')}"))

    def unfinished_uploads(self) -> list[str]:
        """Return the keys of the multipart uploads that were neither completed nor aborted."""
        return _KEY.findall(self._request("GET", f"/{BUCKET}", "uploads="))

    def _request(self, method: str, path: str, query: str = "", content: bytes = b"") -> str:
        """Send a request signed with AWS Signature Version 4."""
        time_text = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{time_text[:8]}/{REGION}/s3/aws4_request"
        digest = hashlib.sha256(content).hexdigest()
        headers = {
            "host": self.url.removeprefix("http://"), "x-amz-content-sha256": digest, "x-amz-date": time_text,
        }  # fmt: skip
        lines = [method, path, query, *(f"{name}:{value}" for name, value in headers.items()), "", ";".join(headers)]
        canonical = hashlib.sha256("\n".join([*lines, digest]).encode()).hexdigest()
        key = f"AWS4{SECRET_KEY}".encode()
        for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{time_text}\n{scope}\n{canonical}"):
            key = hmac.digest(key, part.encode(), "sha256")
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, "
            f"SignedHeaders={';'.join(headers)}, Signature={key.hex()}"
        )
        request = Request(f"{self.url}{path}?{query}", content or None, headers, method=method)
        with urlopen(request, timeout=30) as response:
            return str(response.read().decode())

    def pause(self) -> None:
        os.kill(self._processes["proxy"].pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._processes["proxy"].pid, signal.SIGCONT)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def storage_settings(server: S3Server, **changes: Any) -> StorageSettings:
    """Return `[storage]` settings for the folder "songs" of the bucket, with the smallest parts."""
    defaults = {
        "url": f"s3://{BUCKET}/songs",
        "endpoint": server.url,
        "region": REGION,
        "access_key_id": ACCESS_KEY,
        "secret_access_key": SECRET_KEY,
        "part_bytes": 5 * 2**20,
    }
    return StorageSettings.model_validate({**load().storage.model_dump(), **defaults, **changes})


def object_storage(server: S3Server, root: Path, *, patience_s: float = 20.0, **changes: Any) -> ObjectStorage:
    storage = open_storage(root, storage_settings(server, **changes), patience_s=patience_s)
    assert isinstance(storage, ObjectStorage)
    return storage
