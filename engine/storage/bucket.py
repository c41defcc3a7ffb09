"""Object storage: S3 and what speaks like it, GCS, Azure. The few calls that files need, by key, through obstore."""

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

READ_BYTES = 4 * 2**20  # a request's worth: short enough for its time limit, long enough to be worth one
_WRITE_BYTES = 2**20
_PARTS_AT_ONCE = 4
_ANSWER_S = 10.0  # for a request that moves no file

_REFUSED = re.compile(r"status code: 4(?!04|08|29)\d\d")  # no use asking the same again

Step = Callable[[int, int], None]
"""Called with the bytes done so far and those in all; what it raises ends the transfer."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object."""

    key: str
    size: int  # bytes
    modified: datetime
    etag: str | None


class Bucket:
    """`patience_s`: how long a request is tried again when the store does not answer. Every call may raise
    `StorageUnavailable` (transient), `StorageAccessDenied` or `StorageFailed`, and blocks: call it in a thread."""

    def __init__(self, settings: StorageSettings, *, patience_s: float) -> None:
        """Makes no connection. Raises `ConfigurationError` when the settings are not right."""
        assert settings.url is not None
        self._settings = settings
        self._store = _open(settings, settings.endpoint, patience_s, settings.request_timeout_s)
        # The same for questions: a store that stands still is found out before people have gone.
        self._asked = _open(settings, settings.endpoint, patience_s, min(_ANSWER_S, settings.request_timeout_s))
        public = settings.public_endpoint or settings.endpoint
        self._public = self._asked if public == settings.endpoint else _open(settings, public, patience_s, _ANSWER_S)

    @property
    def keeps_unfinished_uploads(self) -> bool:
        """Whether the parts of an upload that broke off stay until a lifecycle rule removes them."""
        return isinstance(self._store, S3Store)

    def check(self) -> None:
        """Raises as above when the bucket is not there or does not let us in."""
        with translate_errors("the bucket"):
            next(iter(obstore.list(self._asked, "jobs", chunk_size=1)), None)

    def find(self, key: str) -> ObjectInfo | None:
        try:
            with translate_errors(key):
                return _found(obstore.head(self._asked, key))
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`. Raises `FileNotFoundError`."""
        with translate_errors(key):
            return bytes(obstore.get_range(self._store, key, start=start, end=end))

    def blocks(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """The same, in blocks, each a request of its own. Raises `FileNotFoundError`."""
        for at in range(start, end, READ_BYTES):
            yield self.read(key, at, min(end, at + READ_BYTES))

    def download(self, key: str, to: Path, step: Step | None = None) -> int:
        """Write an object to a file; its size in bytes. Raises `FileNotFoundError`."""
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
            raise StorageUnavailable(detail=f"{key}: {done} of {found.size} bytes came")
        return done

    def upload(self, file: Path, key: str, headers: dict[str, str], step: Step | None = None) -> None:
        """Create an object that is not there yet, whole or not at all, and look that all of it arrived. Raises
        `FileExistsError`; for a file of more than one part that is certain only where nobody else writes the key at
        the same moment, since no store makes conditional multipart uploads the way all others do."""
        size = file.stat().st_size
        with translate_errors(key):
            if size <= self._settings.part_bytes:
                self._create(file, key, headers)
            else:
                if self.find(key) is not None:
                    raise FileExistsError(key)
                self._upload_parts(file, key, headers, size, step)
        there = self.find(key)
        if there is None or there.size != size:
            raise StorageUnavailable(detail=f"{key}: {there.size if there else 'none'} of {size} bytes arrived")
        if step is not None:
            step(size, size)

    def _create(self, file: Path, key: str, headers: dict[str, str]) -> None:
        try:
            obstore.put(self._store, key, file, attributes=headers, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # A request that was tried again because its answer got lost meets what it made itself.
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
        with file.open("rb") as source, writer:  # left by an error, it aborts the upload
            while block := source.read(_WRITE_BYTES):
                writer.write(block)
                done += len(block)
                if step is not None:
                    step(done, size)

    def copy(self, source: str, key: str) -> bool:
        """False when there is no such object."""
        try:
            with translate_errors(source):
                obstore.copy(self._store, source, key)
        except FileNotFoundError:
            return False
        return True

    def folders(self, prefix: str) -> list[str]:
        """Names of what lies one step below `prefix` and has something in it."""
        with translate_errors(prefix):
            found = obstore.list_with_delimiter(self._asked, prefix)
        return sorted(folder.rstrip("/").rpartition("/")[2] for folder in found["common_prefixes"])

    def keys(self, prefix: str) -> list[str]:
        """Everything below the folder `prefix`."""
        with translate_errors(prefix):
            return [meta["path"] for batch in obstore.list(self._asked, prefix) for meta in batch]

    def delete(self, keys: list[str]) -> None:
        """What is not there is no error."""
        if keys:
            with translate_errors(keys[0]), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, keys)

    def presigned(self, key: str) -> str:
        """A link to the object itself, good for `redirect_lifetime_s`. Whoever has it may follow it."""
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
    given: Any = {name: value for name, value in names.items() if value is not None}
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
        store = from_url(settings.url, config=given, client_options=client, retry_config=retry)
    except (BaseError, ValueError) as error:
        # The store's own words may have a key in them.
        raise ConfigurationError(
            f"The object storage of STEMIFY_STORAGE__URL cannot be used: {type(error).__name__}. "
            "Look at the settings in [storage]."
        ) from None
    assert isinstance(store, S3Store | GCSStore | AzureStore)
    return store


def _found(meta: Any) -> ObjectInfo:
    etag = meta["e_tag"]
    return ObjectInfo(meta["path"], int(meta["size"]), meta["last_modified"].astimezone(UTC), etag)


@contextmanager
def translate_errors(key: str) -> Iterator[None]:
    """The store's errors as ours, with the first line of what it said. `FileNotFoundError` stays what it is, and
    "already there" becomes `FileExistsError`."""
    try:
        yield
    except BaseError as error:
        detail = f"{key}: {str(error).partition(chr(10))[0][:500]}"
        if isinstance(error, AlreadyExistsError):
            raise FileExistsError(key) from error
        if "NoSuchBucket" in str(error):  # obstore has no kinds of their own for what listing may meet
            raise StorageAccessDenied(
                "There is no such bucket as STEMIFY_STORAGE__URL names. Ask whoever runs this bot to make it.",
                detail=detail,
            ) from error
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or _REFUSED.search(detail):
            raise StorageAccessDenied(detail=detail) from error
        raise StorageUnavailable(detail=detail) from error
