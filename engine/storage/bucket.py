"""A bucket in S3, GCS or Azure, through obstore. Calls block."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store, from_url

from config.settings import Storage as StorageSettings
from engine.errors import ConfigurationError, StorageAccessDenied, StorageUnavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

READ_BYTES = 4 * 2**20  # of one request
_WRITE_BYTES = 2**20
_PARTS_AT_ONCE = 4
_ANSWER_S = 10.0  # limit of a request that transfers no file

_REFUSED = re.compile(r"status code: 4(?!04|08|29)\d\d")  # a retry would fail as well

Step = Callable[[int, int], None]
"""Called with the bytes done and the total; what it raises ends the transfer."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object."""

    key: str
    size: int  # bytes
    modified: datetime
    etag: str | None


class Bucket:
    """One bucket, by key below the folder of its URL.

    Every call blocks and may raise `StorageUnavailable` (transient), `StorageAccessDenied` or `StorageFailed`.
    `patience_s`: how long a request is retried.
    """

    def __init__(self, settings: StorageSettings, *, patience_s: float) -> None:
        """Open the bucket without connecting to it. Raises `ConfigurationError`."""
        assert settings.url is not None
        self._settings = settings
        self._store = _open(settings, settings.endpoint, patience_s, settings.request_timeout_s)
        # For requests that transfer no file: they must time out while the user still waits.
        self._quick = _open(settings, settings.endpoint, patience_s, min(_ANSWER_S, settings.request_timeout_s))
        public = settings.public_endpoint or settings.endpoint
        self._public = self._quick if public == settings.endpoint else _open(settings, public, patience_s, _ANSWER_S)

    @property
    def keeps_unfinished_uploads(self) -> bool:
        """Whether the parts of an upload that broke off stay until a lifecycle rule removes them."""
        return isinstance(self._store, S3Store)

    def check(self) -> None:
        """Check that the bucket exists and can be listed."""
        with translate_errors("the bucket"):
            next(iter(obstore.list(self._quick, "jobs", chunk_size=1)), None)

    def find(self, key: str) -> ObjectInfo | None:
        """Return the object, or None if it does not exist."""
        try:
            with translate_errors(key):
                return _found(obstore.head(self._quick, key))
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`. Raises `FileNotFoundError`."""
        with translate_errors(key):
            return bytes(obstore.get_range(self._store, key, start=start, end=end))

    def blocks(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the same bytes in blocks, one request each. Raises `FileNotFoundError`."""
        for at in range(start, end, READ_BYTES):
            yield self.read(key, at, min(end, at + READ_BYTES))

    def download(self, key: str, to: Path, step: Step | None = None) -> int:
        """Write an object to a file and return its size in bytes. Raises `FileNotFoundError`."""
        found = self.find(key)
        if found is None:
            raise FileNotFoundError(key)
        done = 0
        with to.open("wb") as file:
            for block in self.blocks(key, 0, found.size):
                file.write(block)
                done += len(block)
                if step is not None:
                    step(done, found.size)
        if done != found.size:
            raise StorageUnavailable(detail=f"{key}: received {done} of {found.size} bytes")
        return done

    def upload(self, file: Path, key: str, headers: dict[str, str], step: Step | None = None) -> None:
        """Create an object, completely or not at all, and check its size.

        Raises `FileExistsError`. For a file of several parts this check does not cover concurrent writers: there is
        no conditional multipart upload that all stores support.
        """
        size = file.stat().st_size
        with translate_errors(key):
            if size <= self._settings.part_bytes:
                self._create(file, key, headers)
            else:
                if self.find(key) is not None:
                    raise FileExistsError(key)
                self._upload_parts(file, key, headers, size, step)
        stored = self.find(key)
        if stored is None or stored.size != size:
            raise StorageUnavailable(detail=f"{key}: {stored.size if stored else 0} of {size} bytes were stored")
        if step is not None:
            step(size, size)

    def _create(self, file: Path, key: str, headers: dict[str, str]) -> None:
        try:
            obstore.put(self._store, key, file, attributes=headers, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # The first request may have created it, and only its response was lost.
            found = self.find(key)
            digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
            if found is None or (found.etag or "").strip('"') != digest:
                raise

    def _upload_parts(self, file: Path, key: str, headers: dict[str, str], size: int, step: Step | None) -> None:
        writer = obstore.open_writer(
            self._store,
            key,
            attributes=headers,
            buffer_size=self._settings.part_bytes,
            max_concurrency=_PARTS_AT_ONCE,
        )
        done = 0
        with file.open("rb") as source, writer:  # an error aborts the upload
            while block := source.read(_WRITE_BYTES):
                writer.write(block)
                done += len(block)
                if step is not None:
                    step(done, size)

    def copy(self, source: str, key: str) -> bool:
        """Copy an object, and return False if it does not exist."""
        try:
            with translate_errors(source):
                obstore.copy(self._store, source, key)
        except FileNotFoundError:
            return False
        return True

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix`."""
        with translate_errors(prefix):
            found = obstore.list_with_delimiter(self._quick, prefix)
        return sorted(folder.rstrip("/").rpartition("/")[2] for folder in found["common_prefixes"])

    def keys(self, prefix: str) -> list[str]:
        """Return all keys below the folder `prefix`."""
        with translate_errors(prefix):
            return [meta["path"] for batch in obstore.list(self._quick, prefix) for meta in batch]

    def delete(self, keys: list[str]) -> None:
        """Delete objects. Missing keys are ignored."""
        if keys:
            with translate_errors(keys[0]), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, keys)

    def presigned(self, key: str) -> str:
        """Return a link to the object that works without credentials for `redirect_lifetime_s`."""
        lifetime = timedelta(seconds=self._settings.redirect_lifetime_s)
        with translate_errors(key):
            return obstore.sign(self._public, "GET", key, lifetime)


def _open(
    settings: StorageSettings, endpoint: str | None, patience_s: float, timeout_s: float
) -> S3Store | GCSStore | AzureStore:
    assert settings.url is not None
    secret = settings.secret_access_key.get_secret_value() if settings.secret_access_key else None
    names = {
        "s3": {"endpoint": endpoint, "region": settings.region, "access_key_id": settings.access_key_id}
        | {"secret_access_key": secret},
        "gs": {"base_url": endpoint},
        "az": {"endpoint": endpoint, "account_name": settings.access_key_id, "account_key": secret},
    }[urlsplit(settings.url).scheme]
    config: Any = {name: value for name, value in names.items() if value is not None}
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=5),
        "timeout": timedelta(seconds=timeout_s),
        "allow_http": (endpoint or "").startswith("http://"),
    }
    retry: RetryConfig = {
        "max_retries": 100,
        "retry_timeout": timedelta(seconds=patience_s),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
    }
    try:
        store = from_url(settings.url, config=config, client_options=client, retry_config=retry)
    except (BaseError, ValueError) as error:
        # The text of the error may contain a key.
        raise ConfigurationError(
            f"The object storage of STEMIFY_STORAGE__URL cannot be used: {type(error).__name__}. "
            "Check the settings in [storage]."
        ) from None
    assert isinstance(store, S3Store | GCSStore | AzureStore)
    return store


def _found(meta: Any) -> ObjectInfo:
    etag = meta["e_tag"]
    return ObjectInfo(meta["path"], int(meta["size"]), meta["last_modified"].astimezone(UTC), etag)


@contextmanager
def translate_errors(key: str) -> Iterator[None]:
    """Raise errors of obstore as storage errors, with the first line of their text.

    `FileNotFoundError` passes; an object that exists already becomes `FileExistsError`.
    """
    try:
        yield
    except BaseError as error:
        detail = f"{key}: {str(error).partition(chr(10))[0][:500]}"
        if isinstance(error, AlreadyExistsError):
            raise FileExistsError(key) from error
        if "NoSuchBucket" in str(error):  # listing has no error type for it
            raise StorageAccessDenied(
                "The bucket that STEMIFY_STORAGE__URL names does not exist. Ask the bot's operator to create it.",
                detail=detail,
            ) from error
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or _REFUSED.search(detail):
            raise StorageAccessDenied(detail=detail) from error
        raise StorageUnavailable(detail=detail) from error
