"""Headers of every response: security and caching."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
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


def set_common_headers(
    headers: MutableMapping[str, str], *, content_policy: str = _OF_DATA, resource_policy: str = "same-origin"
) -> None:
    """Add the headers that are not set yet."""
    headers.setdefault("Content-Security-Policy", content_policy)
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "no-referrer")  # URLs may hold signatures
    headers.setdefault("Cross-Origin-Resource-Policy", resource_policy)
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    headers.setdefault("Cache-Control", "no-store")
    headers["Server"] = "Stemify"


def common_headers(base_url: str) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return an `on_response_prepare` signal that adds the headers a handler has not set."""
    of_pages = _of_pages(base_url)

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        if request.path.startswith("/files/") and response.status < 400:
            set_common_headers(response.headers, content_policy=_OF_FILES, resource_policy="cross-origin")
        elif response.content_type == "text/html":
            set_common_headers(response.headers, content_policy=of_pages)
        else:
            set_common_headers(response.headers)

    return add
