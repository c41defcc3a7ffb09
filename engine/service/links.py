"""Signed, expiring links to files, pages of jobs, zip files of all stems, and stages.

The signature is HMAC-SHA256 over the kind of link, the storage key or id, and the time of expiry, so a link cannot
be changed to open something else. A link is a credential: never log it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from engine.errors import ConfigurationError

Kind = Literal["file", "page", "zip", "stage"]
_KEY_BYTES = 32


class Links:
    """Signs and verifies links.

    `key`: 32 secret bytes (`load_key`). `base_url`: the public address of the web server. `cdn_url`: a CDN that pulls
    from it, for links to files.
    """

    def __init__(self, key: bytes, base_url: str, cdn_url: str | None = None) -> None:
        if len(key) < _KEY_BYTES:
            raise ValueError(f"a key of {_KEY_BYTES} bytes is needed")
        self._key = key
        self.base_url = base_url.rstrip("/")
        self._cdn_url = cdn_url.rstrip("/") if cdn_url else None

    def file(self, key: str, expires_at: datetime) -> str:
        """Return a link to the file at a storage key."""
        url = self._url("file", key, f"/files/{quote(key)}", expires_at)
        return url if self._cdn_url is None else f"{self._cdn_url}{url.removeprefix(self.base_url)}&via=cdn"

    def page(self, job_id: str, expires_at: datetime) -> str:
        """Return a link to the page of a job."""
        return self._url("page", job_id, f"/jobs/{quote(job_id)}", expires_at)

    def zip(self, job_id: str, expires_at: datetime) -> str:
        """Return a link to a zip file of all stems of a job."""
        return self._url("zip", job_id, f"/api/jobs/{quote(job_id)}/stems.zip", expires_at)

    def stage(self, stage_id: str, expires_at: datetime) -> str:
        """Return a link to the page that follows a voice channel."""
        return self._url("stage", stage_id, f"/stage/{quote(stage_id)}", expires_at)

    def verify(self, kind: Kind, subject: str, query: Mapping[str, str], now: datetime) -> bool:
        """Return whether `query` (`e` and `s` of the link) gives access to `subject`, a decoded storage key or an id.

        Never raises; the comparison takes constant time.
        """
        expiry, signature = query.get("e", ""), query.get("s", "")
        if not (expiry.isascii() and expiry.isdecimal() and len(expiry) <= 12):
            return False
        # The signature covers the spelling: "0123" is not accepted for "123".
        good = self._signature(kind, subject, expiry).encode()
        matches = hmac.compare_digest(good, signature.encode("utf-8", "surrogatepass"))
        return matches and now.timestamp() < int(expiry)

    def _url(self, kind: Kind, subject: str, path: str, expires_at: datetime) -> str:
        expiry = str(int(expires_at.timestamp()))
        return f"{self.base_url}{path}?e={expiry}&s={self._signature(kind, subject, expiry)}"

    def _signature(self, kind: Kind, subject: str, expiry: str) -> str:
        # None of the parts can contain NUL, so the message is unambiguous.
        message = "\0".join((kind, expiry, subject)).encode("utf-8", "surrogatepass")
        digest = hmac.new(self._key, message, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def load_key(path: Path) -> bytes:
    """Return the key at `path`, created at the first start and readable by its owner only.

    Processes that start at the same time get the same key. Raises `ConfigurationError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The key for links, {path}, cannot be read or created: {error.strerror}. Check its permissions."
        ) from error
    if len(key) != _KEY_BYTES:
        raise ConfigurationError(
            f"The key for links, {path}, is damaged. Delete it to create a new one; existing links stop working."
        )
    return key


def _make_key(path: Path) -> None:
    # Written and synced under another name; linking is atomic and fails if another process was faster.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)
