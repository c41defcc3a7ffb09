"""The response that sends a file of ours."""

from __future__ import annotations

import asyncio
import errno
from io import BufferedReader
from typing import Any

from aiohttp import web

_UNREACHABLE = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)


class SafeFileResponse(web.FileResponse):
    """aiohttp's file response for visitors who leave early: it opens the file in a thread and, cancelled meanwhile,
    would lose it, open."""

    _opened: BufferedReader | None = None
    _is_left = False

    def _make_response(self, request: web.BaseRequest, accept_encoding: str) -> Any:
        found = super()._make_response(request, accept_encoding)
        self._opened = found[1]
        if self._is_left and self._opened is not None:
            self._opened.close()
        return found

    async def prepare(self, request: web.BaseRequest) -> Any:
        try:
            return await super().prepare(request)
        except asyncio.CancelledError:
            self._is_left = True  # before looking: the thread looks after it has opened
            if self._opened is not None:
                self._opened.close()
            raise
        except OSError as error:
            if error.errno in _UNREACHABLE:  # from sendfile
                raise ConnectionResetError("the client stopped reading") from error
            raise
