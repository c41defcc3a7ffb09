"""Request bodies: JSON and multipart forms, counted as they arrive and cut off at their limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Collection, Iterator
from functools import partial
from typing import Any, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from engine.errors import BadOptions, StemifyError, TooLarge
from engine.jobs.options import StemSeparationOptions
from engine.service.service import Upload
from engine.text import did_you_mean
from engine.web.errors import BadRequest, UnsupportedEncoding, UploadTooSlow

JSON_BYTES = 64 * 1024
_FRAME_BYTES = 256 * 1024  # boundaries, part headers and options around the file
_BLOCK_BYTES = 16 * 1024  # small: parsing as many chunks of one byte takes some 40 ms
_FRAME_LINES = 100  # boundaries, part headers and lines outside the parts
_LINE_BYTES = 8190
_PART_HEADERS = 16
_PLAIN_PARTS = ("", "7bit", "8bit", "binary")  # values of Content-Transfer-Encoding that leave the bytes as they are
_KEY_CHARACTERS = 255
_IDLE_S = 30.0  # without a byte
_WHOLE_S = 900.0  # for the whole body
_RATE_WINDOW_S = 30.0  # of waiting for the client
_MIN_BYTES_PER_S = 32_000  # on average over such a window, so that slow clients do not hold all upload slots
_OPTIONS = {
    field.alias or name: name for name, field in StemSeparationOptions.model_fields.items() if name != "comparison"
}
"""The options of a request: their names in JSON, and those of the fields."""


class CappedBody:
    """A request body with limits, in place of the `StreamReader` that a `MultipartReader` reads from.

    Raises `TooLarge` beyond `max_bytes`, `BadRequest` beyond the limits of a form's lines, and `UploadTooSlow` after
    30 s without a byte, below 32 kB/s over 30 s, or after 15 minutes.
    """

    def __init__(self, content: StreamReader, max_bytes: int, refusal: TooLarge) -> None:
        self._content = content
        self._left_bytes = max_bytes
        self._left_lines = _FRAME_LINES
        self._refusal = refusal
        self._until = asyncio.get_running_loop().time() + _WHOLE_S
        self._waited_s = 0.0  # for the client, in this window
        self._received_bytes = 0

    async def read(self, n: int) -> bytes:
        """Read at most `n` bytes."""
        await asyncio.sleep(0)  # yield: the read parses chunks and may not block
        return await self._counted(self._content.read(n))

    async def readline(self, *, max_line_length: int = _LINE_BYTES) -> bytes:
        self._left_lines -= 1
        if self._left_lines < 0:
            raise BadRequest("The form has too many lines outside its fields. Send file and options, once each.")
        return await self._counted(self._content.readline(max_line_length=min(max_line_length, _LINE_BYTES)))

    async def _counted(self, reading: Awaitable[bytes]) -> bytes:
        clock = asyncio.get_running_loop().time
        now = clock()
        try:
            async with asyncio.timeout_at(min(now + _IDLE_S, self._until)):
                block = await reading
        except TimeoutError:
            raise UploadTooSlow from None
        self._check_rate(len(block), clock() - now)
        self._left_bytes -= len(block)
        if self._left_bytes < 0:
            raise self._refusal
        return block

    def _check_rate(self, count_bytes: int, waited_s: float) -> None:
        self._received_bytes += count_bytes
        self._waited_s += waited_s
        if self._waited_s >= _RATE_WINDOW_S:
            if self._received_bytes < _MIN_BYTES_PER_S * self._waited_s:
                raise UploadTooSlow
            self._received_bytes, self._waited_s = 0, 0.0

    def unread_data(self, data: bytes) -> None:
        """Put back bytes that were read too far; they count when they are read again."""
        self._left_bytes += len(data)
        self._received_bytes -= len(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._content.unread_data(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Translate what aiohttp raises for a damaged body. Its texts quote the body, so the log gets only the class."""
    try:
        yield
    except StemifyError:
        raise
    except (ValueError, AssertionError, RuntimeError, LookupError, OSError, HttpProcessingError) as error:
        raise BadRequest("The request body is damaged or incomplete.", detail=type(error).__name__) from error


async def continue_reading(request: web.Request) -> None:
    """Send "100 Continue" to a client that expects it.

    Call it after the headers are checked, so that refused clients need not upload the body.
    """
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the final response has not begun


async def defer_continue(request: web.Request) -> None:
    """Do nothing: the `expect_handler` of routes that call `continue_reading` themselves."""


def idempotency_key(request: web.Request) -> str | None:
    """Return the `Idempotency-Key` header. Raises `BadRequest` unless it has 1 to 255 printable ASCII characters."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= _KEY_CHARACTERS and key.isascii() and key.isprintable()):
        raise BadRequest(f"Idempotency-Key must have 1 to {_KEY_CHARACTERS} printable ASCII characters.")
    return key


def check_declared_length(request: web.Request, max_file_bytes: int) -> None:
    """Raise `TooLarge` if `Content-Length` exceeds the limit."""
    if (request.content_length or 0) > max_file_bytes + _FRAME_BYTES:
        raise TooLarge.over(max_file_bytes, request.content_length)


async def read_json(request: web.Request) -> dict[str, Any]:
    """Read the JSON object in the body. Raises `BadRequest`, `TooLarge`."""
    refusal = TooLarge(f"The JSON body is too large. The limit is {JSON_BYTES // 1024} kB.")
    if (request.content_length or 0) > JSON_BYTES:
        raise refusal
    body = CappedBody(request.content, JSON_BYTES, refusal)
    text = bytearray()
    with _readable():
        while block := await body.read(_BLOCK_BYTES):
            text += block
    return _json_object(bytes(text), "The body")


def _json_object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest(f"{what} is not valid JSON.") from None
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be a JSON object.")
    return value


def chosen_options(values: dict[str, Any] | None, ready: Collection[str]) -> StemSeparationOptions:
    """Parse options from JSON, in camelCase or snake_case; `ready`: the models that are on the machine.

    Raises `BadOptions`, `UnknownModel`.
    """
    return StemSeparationOptions.from_user(ready=ready, **option_changes(values or {}))


def option_changes(values: dict[str, Any]) -> dict[str, Any]:
    """Return the given options by field name, not validated yet. Raises `BadOptions` for unknown names."""
    if unknown := values.keys() - {*_OPTIONS, *_OPTIONS.values()}:
        name = sorted(unknown)[0]
        hint = did_you_mean(name[:40], _OPTIONS)
        raise BadOptions(f"Unknown option {name!r:.40}.{hint} The options are: {', '.join(_OPTIONS)}.")
    for name in ("model", "quality"):
        if not isinstance(values.get(name), str | None):
            raise BadOptions(f"The option {name} must be a string.")
    return {_OPTIONS.get(name, name): value for name, value in values.items()}


async def uploaded(
    request: web.Request, *, max_file_bytes: int, ready: Collection[str]
) -> tuple[Upload, StemSeparationOptions]:
    """Read the file and the options of a multipart request, in either order.

    The file is streamed; options that follow it are read after it. Raises `BadRequest`, `TooLarge`, `BadOptions`.
    """
    body = CappedBody(request.content, max_file_bytes + _FRAME_BYTES, TooLarge.over(max_file_bytes))
    with _readable():
        parts = MultipartReader(request.headers, cast(StreamReader, body), max_headers=_PART_HEADERS)
    options: StemSeparationOptions | None = None
    while (part := await _next(parts)) is not None:
        if part.name == "options" and options is None:
            options = await _options(part, ready)
        elif part.name == "file":
            filename, blocks = _last_component(part.filename), _blocks(part, max_file_bytes)
            if options is not None:
                return Upload(filename, blocks), options
            late = partial(_options_after_file, parts, ready)
            return Upload(filename, blocks, late_options=late), StemSeparationOptions()
        else:
            raise _unexpected_field(part)
    raise BadRequest('The request contains no file. Send it as the multipart field "file".')


async def _options_after_file(parts: MultipartReader, ready: Collection[str]) -> StemSeparationOptions:
    options: StemSeparationOptions | None = None
    while (part := await _next(parts)) is not None:
        if part.name != "options" or options is not None:
            raise _unexpected_field(part)
        options = await _options(part, ready)
    return options or StemSeparationOptions()


async def _options(part: BodyPartReader, ready: Collection[str]) -> StemSeparationOptions:
    return chosen_options(_json_object(await _read_small(part), "The field options"), ready)


def _unexpected_field(part: BodyPartReader) -> BadRequest:
    return BadRequest(f"Unexpected field {part.name!r:.40}. Send file and options, once each.")


async def _next(parts: MultipartReader) -> BodyPartReader | None:
    with _readable():
        part = await parts.next()
    if isinstance(part, MultipartReader):
        raise BadRequest("Nested multipart bodies are not accepted.")
    if part is not None and part.headers.get("Content-Transfer-Encoding", "").strip().lower() not in _PLAIN_PARTS:
        raise UnsupportedEncoding
    return part


async def _read_small(part: BodyPartReader) -> bytes:
    text = bytearray()
    async for block in _blocks(part, JSON_BYTES):
        text += block
    return bytes(text)


async def _blocks(part: BodyPartReader, max_bytes: int) -> AsyncIterator[bytes]:
    left = max_bytes
    while not part.at_eof():
        with _readable():
            block = await part.read_chunk(_BLOCK_BYTES)
        left -= len(block)
        if left < 0:
            raise TooLarge.over(max_bytes)
        if block:
            yield block


def _last_component(filename: str | None) -> str:
    return (filename or "").replace("\\", "/").rpartition("/")[2][:255] or "audio"
