"""Access control: client addresses behind proxies, API tokens, signed links, cross-site requests.

- Anyone who can reach a server without tokens may use it. Such a server therefore listens on loopback only and has no
  public address (unless `web.open` allows it), answers to its own host names only (DNS rebinding) and refuses
  cross-site requests.
- With tokens, the API requires one. A signed page link gives access to one job (state, events, stems) without a token.
- Clients of the API may read any job whose id (74 random bits) they know. A job is cancelled and deleted by the address
  that submitted it, or with a token if it was submitted over the API. Discord jobs are cancelled in Discord.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import web

from config.settings import Web
from engine.errors import ConfigurationError, NotAllowed
from engine.jobs.job import Job
from engine.web.errors import CrossSite, PublicUrlMissing, Unauthorized, WrongHost

log = logging.getLogger(__name__)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MIN_TOKEN_LENGTH = 16
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_FORWARDED = re.compile(r"\[(?P<six>[^\]]+)\](?::\d+)?|(?P<four>[\d.]+)(?::\d+)?|(?P<bare>[0-9A-Fa-f:.]+)")


_FORWARDING_HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP")
_MAKE_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe())'"  # noqa: S105


def is_loopback(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_listening(settings: Web) -> None:
    """Check that strangers cannot use the API unless the operator allows it. Raises `ConfigurationError`."""
    if any(len(token.get_secret_value()) < _MIN_TOKEN_LENGTH for token in settings.api_tokens):
        raise ConfigurationError(
            f"An API token (STEMIFY_WEB__API_TOKENS) is shorter than {_MIN_TOKEN_LENGTH} characters. "
            f"Make one with: {_MAKE_TOKEN}"
        )
    if settings.api_tokens or (place := _public_place(settings)) is None:
        return
    if not settings.open:
        raise ConfigurationError(
            f"The web server can be reached from other machines ({place}), but it has no API token. "
            f"Set STEMIFY_WEB__API_TOKENS (make one with: {_MAKE_TOKEN}). "
            "If anyone who reaches the server may use it, set STEMIFY_WEB__OPEN=true instead."
        )
    log.warning("the API is open: anyone who reaches the server may use it (%s, web.open is set)", place)


def is_private_page(settings: Web) -> bool:
    """Return True if only this machine can reach the server: loopback, no tokens, no proxy."""
    return (
        not settings.api_tokens and not settings.trusted_proxies and not settings.open and _is_loopback_only(settings)
    )


def _is_loopback_only(settings: Web) -> bool:
    return _public_place(settings) is None and not settings.public_url and not settings.cdn_url


def _public_place(settings: Web) -> str | None:
    """Return the setting (with its value) that lets other machines reach this server, or None."""
    if not is_loopback(settings.host):
        return f'STEMIFY_WEB__HOST is "{settings.host}"'
    for variable, url in (("PUBLIC_URL", settings.public_url), ("CDN_URL", settings.cdn_url)):
        if url and not is_loopback(urlsplit(url).hostname or ""):
            return f"STEMIFY_WEB__{variable} is {url}"
    return None


def _networks(texts: Sequence[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise ConfigurationError(f"STEMIFY_WEB__TRUSTED_PROXIES: {error}. Give addresses or networks.") from None


def _address(text: str) -> IpAddress | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _forwarded(entry: str) -> IpAddress | None:
    found = _FORWARDED.fullmatch(entry.strip())
    return _address(found["six"] or found["four"] or found["bare"]) if found else None


def peer_address(transport: asyncio.BaseTransport | None) -> IpAddress | None:
    """Return the address at the other end of a connection."""
    peername = transport.get_extra_info("peername") if transport else None
    return _address(peername[0]) if peername else None


def owner_of(address: IpAddress | None) -> str:
    """Return the owner of jobs from an address. An IPv6 /64 counts as one owner."""
    if address is None:
        return "ip:unknown"
    if isinstance(address, ipaddress.IPv6Address):
        return f"ip:{ipaddress.ip_network((address, 64), strict=False)}"
    return f"ip:{address}"


class Access:
    """Raises `ConfigurationError` when the settings are not safe."""

    def __init__(self, settings: Web) -> None:
        check_listening(settings)
        self._proxies = _networks(settings.trusted_proxies)
        self._tokens = [_digest(token.get_secret_value()) for token in settings.api_tokens]
        self._public_url = settings.public_url
        self._public = _netloc(settings.public_url or "")
        self._warned = False
        self._has_hinted = False
        self._hosts: set[str | None] | None = None
        self._answers_addresses = settings.open and not is_loopback(settings.host)
        if not self._tokens:
            self._hosts = {"localhost", "127.0.0.1", "::1", settings.host}
            # A CDN may ask by its own name or by ours.
            self._hosts |= {_hostname(_netloc(url)) for url in (settings.public_url, settings.cdn_url) if url}

    @property
    def wants_token(self) -> bool:
        """Whether the API requires a token."""
        return bool(self._tokens)

    def address(self, request: web.Request) -> IpAddress | None:
        """Return the client's address: the nearest hop that is not a trusted proxy.

        `X-Forwarded-For` is read from the right, as far as each hop is trusted.
        """
        address = peer_address(request.transport)
        self._warn_of_unknown_proxy(request, address)
        if not self.is_proxy(address):
            return address
        hops = [hop for line in request.headers.getall("X-Forwarded-For", []) for hop in line.split(",")]
        while hops and self.is_proxy(address):
            previous = _forwarded(hops.pop())
            if previous is None:
                break
            address = previous
        return address

    def _warn_of_unknown_proxy(self, request: web.Request, peer: IpAddress | None) -> None:
        """Log once that a proxy hides its clients: without their addresses they share one quota."""
        if self._warned or not any(name in request.headers for name in _FORWARDING_HEADERS):
            return
        if self.is_proxy(peer):
            if "X-Forwarded-For" in request.headers:
                return
            problem = "sends no X-Forwarded-For; configure it to"
        else:
            problem = "is not trusted; if it is your proxy, add it to STEMIFY_WEB__TRUSTED_PROXIES"
        self._warned = True
        log.warning(
            "a request from %s was forwarded for another client, but %s %s. "
            "Until then all clients of this proxy count as one.",
            peer, peer, problem,
        )  # fmt: skip

    def is_proxy(self, address: IpAddress | None) -> bool:
        """Whether the address is one of our trusted proxies."""
        return address is not None and any(address in network for network in self._proxies)

    def owner(self, request: web.Request) -> str:
        """Return the owner of jobs created by this request, for quota and limits."""
        return owner_of(self.address(request))

    def has_token(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        digest = _digest(token.strip())
        matches = [hmac.compare_digest(digest, each) for each in self._tokens]  # all of them: constant time
        return scheme.lower() == "bearer" and any(matches)

    def require_token(self, request: web.Request) -> None:
        """Raise `Unauthorized` unless the request may use the API."""
        if self.wants_token and not self.has_token(request):
            raise Unauthorized

    def may_change(self, request: web.Request, job: Job) -> bool:
        """Whether the request may cancel or delete the job."""
        if self.wants_token:
            return self.has_token(request) and job.owner.startswith("ip:")
        return job.owner == self.owner(request)

    def check_may_change(self, request: web.Request, job: Job) -> None:
        """Raise `NotAllowed` unless the request may cancel or delete the job."""
        if not self.may_change(request, job):
            raise NotAllowed

    def check_host(self, request: web.Request) -> None:
        """Raise `WrongHost` for an unknown host name. Servers with tokens accept every name."""
        if self._hosts is None:
            return
        name = _hostname(request.host)
        if name not in self._hosts and not (self._answers_addresses and _address(name or "") is not None):
            self._hint_at_public_url("host", request.host)
            raise WrongHost

    def check_origin(self, request: web.Request) -> None:
        """Raise `CrossSite` if a browser reports another origin. Other clients do not send one."""
        origin = request.headers.get("Origin")
        if origin is None:
            if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
                raise CrossSite
        elif _netloc(origin) not in {request.host.lower(), self._public} - {""}:
            if not _netloc(origin):
                raise CrossSite
            self._hint_at_public_url("origin", origin)
            if self._public_url is None:
                raise PublicUrlMissing
            raise CrossSite(
                "Another web site sent this request, so it was blocked. "
                f"Open Stemify at its own address, {self._public_url}"
            )

    def _hint_at_public_url(self, header: str, value: str) -> None:
        """Log once which setting admits the address that a request named."""
        if self._has_hinted:
            return
        self._has_hinted = True
        log.warning(
            "refused a request for its %s %r; if people open that address, set STEMIFY_WEB__PUBLIC_URL to it (now %s)",
            header, value[:200], self._public_url or "not set",
        )  # fmt: skip


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _netloc(url: str) -> str:
    """Return host and port of an address without the scheme's default port; "" if there is none ("null")."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.netloc.lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, ""))


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
