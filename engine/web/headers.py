"""Headers that every response has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

_OF_DATA = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
_OF_FILES = "default-src 'none'; frame-ancestors 'none'; sandbox"


def _of_pages(base_url: str) -> str:
    # Signed links start with the public address, which need not be the one that the page was opened at.
    ours = f"'self' {_origin(base_url)}".strip()
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {ours} data: blob:; "
        f"media-src {ours} blob:; connect-src {ours}; font-src 'self'; manifest-src 'self'; "
        "worker-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def security_headers(base_url: str) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """An `on_response_prepare` signal. What a handler has set itself stays."""
    of_pages = _of_pages(base_url)

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        is_file = request.path.startswith("/files/") and response.status < 400
        page = of_pages if response.content_type == "text/html" else _OF_DATA
        headers.setdefault("Content-Security-Policy", _OF_FILES if is_file else page)
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "no-referrer")  # addresses here open things
        headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin" if is_file else "same-origin")
        headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
        headers["Server"] = "Stemify"

    return add
