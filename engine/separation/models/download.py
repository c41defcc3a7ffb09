"""Download a file over HTTP: resumed, verified, and renamed into place when complete."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from engine.errors import DiskFull, ModelUnavailable
from engine.separation.models.pickles import has_checksum

_BLOCK_BYTES = 1 << 18
_TRIES = 3


def download(
    url: str,
    path: Path,
    *,
    checksum: str | None,
    progress: Callable[[int, int | None], None],
    timeout_s: float = 20.0,
) -> None:
    """Download `url` to `path` unless it exists.

    `checksum`: the first digits of its SHA-256. A partial download stays as `.part` and the next call resumes it.
    Raises `ModelUnavailable`, `DiskFull`.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    problem: Exception | None = None
    for _ in range(_TRIES):
        try:
            if _fetch(url, part, progress, timeout_s):
                break
        except urllib.error.HTTPError as error:
            error.close()
            problem = error
            if error.code == 416:  # the part is longer than the file
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise _unavailable(url, error) from error
        except urllib.error.URLError as error:
            raise _unavailable(url, error) from error
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            problem = error
        except OSError as error:
            raise DiskFull(detail=repr(error)) from error
    else:
        raise _unavailable(url, problem)
    if checksum is not None and not has_checksum(part, checksum):
        part.unlink()
        raise ModelUnavailable(f"{path.name} was damaged during the download from {url.split('/')[2]}. Try again.")
    part.replace(path)


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None], timeout_s: float) -> bool:
    """Resume `part`; return whether it is complete."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
        if answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(_BLOCK_BYTES):
                file.write(block)
                have += len(block)
                progress(have, total)
    return total is None or have == total


def _unavailable(url: str, error: Exception | None) -> ModelUnavailable:
    return ModelUnavailable(f"The weights could not be fetched from {url.split('/')[2]}.", detail=f"{url}: {error!r}")
