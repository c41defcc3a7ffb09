"""Download attachments, only from the allowed hosts."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable, Collection

import aiohttp
from yarl import URL

from engine.errors import AttachmentGone, BadAttachment, SourceUnreachable, TooLarge

_MOST_REDIRECTS = 3
_BLOCK_BYTES = 1 << 16
_TIMEOUT = aiohttp.ClientTimeout(total=180, sock_connect=10, sock_read=20)
_NO_RESPONSE = "The server that stores that attachment is not responding. Try again in a moment."


async def fetch_attachment(
    session: aiohttp.ClientSession,
    url: str,
    *,
    allowed_hosts: Collection[str],
    max_bytes: int,
    proxy_for: Callable[[str], str | None] = lambda url: None,
) -> AsyncIterator[bytes]:
    """Yield the bytes at `url`, at most `max_bytes`.

    `allowed_hosts` contains "host" (https on port 443) or "host:port" (that port only; plain http is allowed for a
    loopback address). Redirects are followed within that list. `proxy_for` returns the proxy for an address, if any.
    Raises `BadAttachment`, `AttachmentGone`, `TooLarge`, or `SourceUnreachable` (transient). Errors and logs never
    contain the signed address.
    """
    target = _allowed(url, allowed_hosts)
    for _ in range(_MOST_REDIRECTS + 1):
        response = await _get(session, target, proxy_for(str(target)))
        async with response:
            if response.status in (301, 302, 303, 307, 308):
                target = _allowed(_redirect_target(target, response), allowed_hosts)
                continue
            _check_status(response.status)
            declared = response.content_length
            if declared is not None and declared > max_bytes:
                raise TooLarge.over(max_bytes, declared)
            received = 0
            try:
                async for block in response.content.iter_chunked(_BLOCK_BYTES):
                    received += len(block)
                    if received > max_bytes:
                        raise TooLarge.over(max_bytes)
                    yield block
            except (aiohttp.ClientError, TimeoutError) as error:
                raise SourceUnreachable(
                    "The download of that attachment was interrupted. Try again in a moment.",
                    detail=type(error).__name__,
                ) from None
            return
    raise BadAttachment(detail="too many redirects")


async def _get(session: aiohttp.ClientSession, target: URL, proxy: str | None) -> aiohttp.ClientResponse:
    try:
        return await session.get(
            target, proxy=proxy, allow_redirects=False, timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"}
        )
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # their texts can contain the address
        raise SourceUnreachable(_NO_RESPONSE, detail=type(error).__name__) from None


def _check_status(status: int) -> None:
    if status in (401, 403, 404, 410):
        raise AttachmentGone(detail=f"status {status}")
    if status != 200:
        raise SourceUnreachable(_NO_RESPONSE, detail=f"status {status}")


def _redirect_target(target: URL, response: aiohttp.ClientResponse) -> str:
    try:
        return str(target.join(URL(response.headers["Location"])))
    except (KeyError, ValueError):
        raise BadAttachment(detail="redirect without a valid address") from None


def _allowed(url: str, allowed_hosts: Collection[str]) -> URL:
    """Return `url` if the list allows its host, port and scheme. Raises `BadAttachment`."""
    try:
        target = URL(url)
        host, port = (target.host or "").lower(), target.port
    except ValueError:
        raise BadAttachment(detail="not a valid address") from None
    if target.user is not None or target.password is not None or not host or port is None:
        raise BadAttachment(detail="an address with credentials, or without a host or port")
    hosts = {entry.strip().lower() for entry in allowed_hosts}
    bracketed = f"[{host}]" if ":" in host else host
    with_port = f"{bracketed}:{port}" in hosts
    if target.scheme == "https" and (with_port or (bracketed in hosts and port == 443)):
        return target
    if target.scheme == "http" and with_port and _is_loopback(host):
        return target
    raise BadAttachment(detail=f"host {host}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
