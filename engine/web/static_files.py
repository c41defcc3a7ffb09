"""Files that are the same for every visitor, texts compressed once.

A page gets its style as one file, and preloads the modules of the scripts that it names. Slow lines and browsers, which
open six connections to a server, make each request expensive.

Only such text is compressed: the length of a compressed response can reveal a secret beside text of an attacker.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from posixpath import dirname, normpath
from typing import Self

from aiohttp import ETag, web
from aiohttp.helpers import ETAG_ANY

STATIC = Path(__file__).with_name("static")
_CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
_STYLE_OF_PAGE = ".html.css"
_OF_SCRIPTS = "default-src 'none'; script-src 'self'; connect-src 'self'"
_IMPORT = re.compile(r'^import\b[^;]*?"(\.{1,2}/[^"]+)";', re.MULTILINE)
_PRELOAD = re.compile(r'<link rel="modulepreload" href="/static/([^"]+)"([^>]*)>\n')
_STYLE = re.compile(r'<link rel="stylesheet" href="/static/([^"]+)">\n')


class StaticFile:
    """A file as a response. Browsers ask again each time and get 304 while it is unchanged."""

    def __init__(self, content: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        self._content = content
        self._compressed = None if content_type == "image/png" else gzip.compress(content, 9, mtime=0)
        self._tag = hashlib.sha256(content).hexdigest()[:32]
        self._headers = {"Content-Type": content_type, "Vary": "Accept-Encoding", **(headers or {})}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a static file. `job.html.css` is all styles of `job.html`."""
        if path.suffix == ".html":
            content = _with_preloads(_with_one_style(path)).encode()
        elif path.name.endswith(_STYLE_OF_PAGE):
            content = _style_of(path.with_suffix("")).encode()
        else:
            content = path.read_bytes()
        # A web worker has the policy of its script.
        headers = {"Content-Security-Policy": _OF_SCRIPTS} if path.suffix == ".js" else {}
        return cls(content, _CONTENT_TYPES[path.suffix], headers)

    def response(self, request: web.Request, status: int = 200) -> web.Response:
        if status != 200:  # a browser would revalidate a stored error page, and 304 would make it a success
            return web.Response(status=status, body=self._content, headers=self._headers)
        compressed = self._compressed if _accepts_gzip(request) else None
        etag = ETag(self._tag if compressed is None else f"{self._tag}-gzip")
        headers = self._headers | {"Cache-Control": "no-cache"}
        if any(known.value in (etag.value, ETAG_ANY) for known in request.if_none_match or ()):
            response = web.Response(status=304, headers=headers)
        elif compressed is not None:
            response = web.Response(body=compressed, headers=headers | {"Content-Encoding": "gzip"})
        else:
            response = web.Response(body=self._content, headers=headers)
        response.etag = etag
        return response


def static_file(name: str) -> StaticFile | None:
    """Return a file of the static folder; None if there is none with this name."""
    if name not in _names():
        return None
    return _read(STATIC / name)


@cache
def _read(path: Path) -> StaticFile:
    return StaticFile.read(path)


@cache
def _names() -> frozenset[str]:
    files = [path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.suffix in _CONTENT_TYPES]
    return frozenset([*files, *(f"{name}.css" for name in files if name.endswith(".html"))])


def _accepts_gzip(request: web.Request) -> bool:
    encodings = ",".join(request.headers.getall("Accept-Encoding", []))
    return any(re.fullmatch(r"gzip(;q=(1|0?\.\d*[1-9]\d*).*)?", each.replace(" ", "")) for each in encodings.split(","))


def _with_one_style(path: Path) -> str:
    """Return a page with one link in place of the links to its styles."""
    before, *parts = _STYLE.split(path.read_text("utf-8"))
    name = path.relative_to(STATIC).as_posix()
    return f'{before}<link rel="stylesheet" href="/static/{name}.css">\n{"".join(parts[1::2])}'


def _style_of(path: Path) -> str:
    names = _STYLE.findall(path.read_text("utf-8"))
    return "\n".join((STATIC / name).read_text("utf-8") for name in names)


def _with_preloads(page: str) -> str:
    """Let a browser load all modules of a preloaded script at once, not one import after the other."""
    linked: set[str] = set()

    def add(link: re.Match[str]) -> str:
        names = [name for name in dict.fromkeys(_imported(link[1])) if name not in linked]
        linked.update(names)
        return "".join(f'<link rel="modulepreload" href="/static/{name}"{link[2]}>\n' for name in names)

    return _PRELOAD.sub(add, page)


def _imported(script: str) -> Iterator[str]:
    """Yield the script and all modules that it imports."""
    found = {script}
    waiting = [script]
    while waiting:
        name = waiting.pop()
        yield name
        text = (STATIC / name).read_text("utf-8")
        imported = {normpath(f"{dirname(name)}/{path}").lstrip("/") for path in _IMPORT.findall(text)}
        waiting += sorted(imported - found)
        found |= imported
