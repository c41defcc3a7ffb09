"""Links that other machines can open, for messages that people read elsewhere."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from engine.jobs.job import JobView

_LOCAL_SUFFIXES = (".localhost", ".local", ".localdomain", ".internal", ".intranet", ".lan", ".home", ".home.arpa")


def is_public(url: str) -> bool:
    """Return whether the address is not one of this machine or of a private network."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith(_LOCAL_SUFFIXES)


def with_public_links(view: JobView) -> JobView:
    """Return the view with only those links that other machines can open."""
    page_url = view.page_url if view.page_url is not None and is_public(view.page_url) else None
    links = tuple(link for link in view.links if is_public(link.url))
    return view.model_copy(update={"page_url": page_url, "links": links})
