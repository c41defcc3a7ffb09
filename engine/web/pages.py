"""`/` and `/jobs/{id}`: the web pages, and their static files (`/static/…`).

The HTML is the same for every visitor; scripts load the data from `engine.web.page_api` and the API. There is no build
step, no framework and no third-party resource.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from engine.errors import StemifyError
from engine.web import page_api
from engine.web.api import readable_job
from engine.web.errors import status_of
from engine.web.files import SafeFileResponse

STATIC = Path(__file__).with_name("static")
_OF_SCRIPTS = "default-src 'none'; script-src 'self'; connect-src 'self'"
_CONTENT_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}


async def index(request: web.Request) -> web.StreamResponse:
    return _page("index.html")


async def job(request: web.Request) -> web.StreamResponse:
    """Send the job page, with an error status if the job cannot be read.

    The page requests the job again and shows the error message.
    """
    try:
        await readable_job(request)
    except StemifyError as error:
        return _page("job.html", status_of(error))
    return _page("job.html")


async def static(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    if name not in _names() or name.endswith(".html"):
        raise web.HTTPNotFound
    return _file(name, 200, cache="no-cache")


def _names() -> frozenset[str]:
    files = (path for path in STATIC.rglob("*") if path.suffix in _CONTENT_TYPES)
    return frozenset(path.relative_to(STATIC).as_posix() for path in files)


def _page(name: str, status: int = 200) -> web.FileResponse:
    # A browser would revalidate a stored error page, and 304 would make it a success.
    return _file(name, status, cache="no-cache" if status == 200 else "no-store")


def _file(name: str, status: int, *, cache: str) -> web.FileResponse:
    content_type = _CONTENT_TYPES[Path(name).suffix]
    charset = "" if content_type.endswith(("json", "png")) else "; charset=utf-8"
    headers = {"Content-Type": content_type + charset, "Cache-Control": cache}
    if name.endswith(".js"):
        headers["Content-Security-Policy"] = _OF_SCRIPTS  # a web worker has the policy of its script
    return SafeFileResponse(STATIC / name, status=status, headers=headers)


routes = [
    web.get("/", index),
    web.get("/jobs/{job_id}", job),
    web.get("/static/{name:.+}", static),
    *page_api.routes,
]
