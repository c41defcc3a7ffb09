"""`/` and `/jobs/{id}`: the pages for people."""

from __future__ import annotations

from aiohttp import web

routes = web.RouteTableDef()
