"""An attachment's bytes, from the hosts where attachments lie and from nowhere else."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable, Collection

import aiohttp
from yarl import URL

from engine.errors import AttachmentGone, BadAttachment, SourceUnreachable, TooLarge

_MOST_REDIRECTS = 3
_BLOCK_BYTES = 1 << 16
_TIMEOUT = aiohttp.ClientTimeout(total=180, sock_connect=10, sock_read=20)
_NO_ANSWER = "The server where that attachment lies does not answer just now. Please try again in a moment."


async def fetch_attachment(
    session: aiohttp.ClientSession,
    url: str,
    *,
    allowed_hosts: Collection[str],
    max_bytes: int,
    proxy_for: Callable[[str], str | None] = lambda url: None,
) -> AsyncIterator[bytes]:
    """The bytes at `url`, at most `max_bytes`.

    `allowed_hosts` holds "host" (https at its usual port) or "host:port" (exactly that port; a loopback address may
    then be spoken to without TLS). Redirects are followed within that list. `proxy_for` names the proxy for an
    address, if any. Raises `BadAttachment`, `AttachmentGone`, `TooLarge`, or `SourceUnreachable` (transient). No error
    and no log line holds the signed address.
    """
    target = _allowed(url, allowed_hosts)
    for _ in range(_MOST_REDIRECTS + 1):
        response = await _get(session, target, proxy_for(str(target)))
        async with response:
            if response.status in (301, 302, 303, 307, 308):
                target = _allowed(_next_address(target, response), allowed_hosts)
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
                    "That attachment broke off while it was fetched. Please try again in a moment.",
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
        # their texts can hold the address
        raise SourceUnreachable(_NO_ANSWER, detail=type(error).__name__) from None


def _check_status(status: int) -> None:
    if status in (401, 403, 404, 410):
        raise AttachmentGone(detail=f"status {status}")
    if status != 200:
        raise SourceUnreachable(_NO_ANSWER, detail=f"status {status}")


def _next_address(target: URL, response: aiohttp.ClientResponse) -> str:
    try:
        return str(target.join(URL(response.headers["Location"])))
    except (KeyError, ValueError):
        raise BadAttachment(detail="redirect to nowhere") from None


def _allowed(url: str, allowed_hosts: Collection[str]) -> URL:
    """The address, if it is one of the list's hosts, spoken to as the list says. Raises `BadAttachment`."""
    try:
        target = URL(url)
        host, port = (target.host or "").lower(), target.port
    except ValueError:
        raise BadAttachment(detail="no address") from None
    if target.user is not None or target.password is not None or not host or port is None:
        raise BadAttachment(detail="no plain address")
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
