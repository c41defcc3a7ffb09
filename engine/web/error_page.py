"""Error pages for browsers."""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

from aiohttp import web

_TEMPLATE = Path(__file__).with_name("static") / "error.html"
_HEADINGS = {
    401: "An access token is needed",
    404: "Page not found",
    410: "This link has expired",
    421: "This address is not set up",
}


def is_navigation(request: web.Request) -> bool:
    """Return True if a browser requests a page or a download."""
    is_data = request.path.endswith(".json") or (
        request.path.startswith("/api/") and not request.path.endswith("/stems.zip")
    )
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "") and not is_data


def error_page(status: int, message: str, *, heading: str | None = None) -> web.Response:
    heading = heading or _HEADINGS.get(status, "Something went wrong")
    text = Template(_TEMPLATE.read_text("utf-8")).substitute(heading=heading, message=html.escape(message))
    return web.Response(status=status, text=text, content_type="text/html")
