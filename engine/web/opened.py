"""The response that sends a file of ours."""

from __future__ import annotations

import asyncio

from aiohttp import web


class OpenedFile(web.FileResponse):
    """aiohttp's file response for visitors who leave early: it opens the file in a thread and, cancelled meanwhile,
    would lose it, open. So it comes to its own end, which is near: its connection is gone."""

    async def prepare(self, request: web.BaseRequest) -> object:  # type: ignore[override]
        return await asyncio.shield(asyncio.ensure_future(super().prepare(request)))
