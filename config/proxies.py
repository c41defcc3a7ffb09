"""Choose the proxy for a request to Discord."""

from __future__ import annotations

import ipaddress
import logging
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

log = logging.getLogger(__name__)


def proxy_for(url: str, configured: str | None) -> str | None:
    """Return the configured proxy, or the one that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY give for `url`.

    These variables do not apply to loopback addresses.
    """
    if configured is not None:
        return configured
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    scheme = {"wss": "https", "ws": "http"}.get(parts.scheme, parts.scheme)
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.lower().startswith(("http://", "https://")):
        log.warning("proxy ignored: only http:// and https:// work for Discord; set STEMIFY_DISCORD__PROXY")
        return None
    return proxy


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
