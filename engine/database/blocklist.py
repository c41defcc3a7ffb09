"""Owners and servers blocked by the operator, in the settings or in the database."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from engine.clock import utc_now
from engine.database.database import Database
from engine.database.rows import to_us
from engine.database.sql import QUERIES
from engine.errors import Blocked, ConfigurationError, InputRefused

_DISCORD = re.compile(r"discord:\d{1,20}")


def parse_owner(text: str) -> str:
    """Return an owner to block in canonical form: "discord:<user or server id>", "ip:<address or network>".

    An IPv6 address becomes its /64, as in the quota. Raises `InputRefused`.
    """
    text = text.strip()
    if _DISCORD.fullmatch(text):
        return text
    kind, _, address = text.partition(":")
    try:
        network = ipaddress.ip_network(address, strict=False) if kind == "ip" else None
    except ValueError:
        network = None
    if network is None:
        raise InputRefused(f"Unknown owner {text!r:.60}. Use discord:<user or server id> or ip:<address or network>.")
    if network.version == 6 and network.prefixlen > 64:
        network = network.supernet(new_prefix=64)
    return f"ip:{network.network_address}" if network.num_addresses == 1 else f"ip:{network}"


class BlockList:
    """`configured`: from the settings. Raises `ConfigurationError` when one of these cannot be read."""

    def __init__(self, database: Database, configured: Sequence[str] = ()) -> None:
        self._database = database
        try:
            self._configured = frozenset(parse_owner(text) for text in configured)
        except InputRefused as error:
            raise ConfigurationError(
                f"limits.blocked_owners (STEMIFY_LIMITS__BLOCKED_OWNERS): {error.message}"
            ) from None

    async def add(self, owner: str) -> None:
        await self._database.run(QUERIES["block"], {"owner": owner, "now": to_us(utc_now())})

    async def remove(self, owner: str) -> bool:
        """Unblock an owner, and return False if the database did not contain it."""
        return bool(await self._database.run(QUERIES["unblock"], {"owner": owner}))

    async def all(self) -> list[str]:
        rows = await self._database.read(QUERIES["blocked"])
        return [*sorted(self._configured), *(row["owner"] for row in rows if row["owner"] not in self._configured)]

    async def check(self, owner: str, scope: str | None) -> None:
        """Raise `Blocked` if the owner, or the server in `scope`, is blocked."""
        blocked = await self.all()
        if scope is not None and scope in blocked:
            raise Blocked("The operator of this bot has blocked this server.")
        if owner in blocked or any(_contains(each, owner) for each in blocked):
            raise Blocked


def _contains(blocked: str, owner: str) -> bool:
    if not (blocked.startswith("ip:") and owner.startswith("ip:")):
        return False
    try:
        outer = ipaddress.ip_network(blocked[3:], strict=False)
        inner = ipaddress.ip_network(owner[3:], strict=False)
    except ValueError:  # "ip:unknown"
        return False
    return bool(outer.version == inner.version and inner.subnet_of(outer))  # type: ignore[arg-type]
