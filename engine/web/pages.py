"""`/` and `/jobs/{id}`: the web pages, and their static files (`/static/…`).

The HTML is the same for every visitor; scripts load the data from `engine.web.page_api` and the API. There is no build
step, no framework and no third-party resource.
"""

from __future__ import annotations

from functools import partial
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from engine.errors import StemifyError
from engine.web import page_api
from engine.web.api import readable_job
from engine.web.error_page import error_page
from engine.web.errors import status_of
from engine.web.keys import SAMPLE
from engine.web.static_files import static_file


async def index(request: web.Request) -> web.StreamResponse:
    return _page(request, "index.html")


async def job(request: web.Request) -> web.StreamResponse:
    """Send the job page, with an error status if the job cannot be read.

    The page requests the job again and shows the error message.
    """
    try:
        view = await readable_job(request)
    except StemifyError as error:
        return _page(request, "job.html", status_of(error))
    page = _page(request, "job.html")
    result = view.job.result
    data = ["player.json"] + (["peaks.json"] if result is not None and result.comparison is None else [])
    page.headers["Link"] = ", ".join(map(partial(_preload, request), data))
    return page


def _preload(request: web.Request, name: str) -> str:
    """Let a browser load data of the page while it loads the scripts that request it."""
    # Of the query only the signature, encoded: the header is made of what the visitor sent.
    query = urlencode({key: request.query[key] for key in ("e", "s") if key in request.query})
    return f"<{request.rel_url.raw_path}/{name}{'?' if query else ''}{query}>; rel=preload; as=fetch; crossorigin"


async def sample(request: web.Request) -> web.StreamResponse:
    """Lead to the page of the sample song; a browser asks again until its job exists."""
    song = request.app[SAMPLE]
    if song is None:
        raise web.HTTPNotFound
    url = await song.page_url()
    if url is None:
        words = "This page opens it when it is ready."
        page = error_page(503, words, heading="The sample song is being prepared")
        page.headers["Refresh"] = page.headers["Retry-After"] = "5"
        return page
    parts = urlsplit(url)  # this server, at the name that the visitor opened
    raise web.HTTPFound(f"{parts.path}?{parts.query}", headers={"Cache-Control": "no-store"})


async def static(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    file = None if name.endswith(".html") else static_file(name)
    if file is None:
        raise web.HTTPNotFound
    return file.response(request)


def _page(request: web.Request, name: str, status: int = 200) -> web.Response:
    file = static_file(name)
    assert file is not None
    return file.response(request, status)


routes = [
    web.get("/", index),
    web.get("/sample", sample),
    web.get("/jobs/{job_id}", job),
    web.get("/static/{name:.+}", static),
    *page_api.routes,
]
