"""The operator's block list: owners, servers and networks, in the settings and in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.database.blocklist import BlockList, parse_owner
from engine.database.database import Database
from engine.errors import Blocked, ConfigurationError, InputRefused


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "stemify.sqlite3")
    yield database
    await database.close()


@pytest.mark.parametrize(
    ("blocked", "owner", "scope"),
    [
        ("discord:17", "discord:17", None),
        ("discord:99", "discord:17", "discord:99"),
        ("ip:192.0.2.1", "ip:192.0.2.1", None),
        ("ip:192.0.2.0/24", "ip:192.0.2.77", None),
        ("ip:2001:db8::17", "ip:2001:db8::/64", None),
        ("ip:2001:db8::/32", "ip:2001:db8:5:6::/64", None),
    ],
)
async def test_blocked_owner_is_refused_until_unblocked(
    database: Database, blocked: str, owner: str, scope: str | None
) -> None:
    name = parse_owner(blocked)
    blocks = BlockList(database)
    await blocks.check(owner, scope)
    await blocks.add(name)
    with pytest.raises(Blocked, match="operator"):
        await blocks.check(owner, scope)
    assert await blocks.remove(name)
    await blocks.check(owner, scope)
    with pytest.raises(Blocked):
        await BlockList(database, [blocked]).check(owner, scope)


async def test_other_owners_are_not_blocked(database: Database) -> None:
    blocks = BlockList(database, ["discord:17", "ip:192.0.2.0/24"])
    for owner in ("discord:1", "discord:170", "ip:192.0.3.1", "ip:2001:db8::/64", "ip:unknown", "local"):
        await blocks.check(owner, "discord:1700")


@pytest.mark.parametrize("text", ["", "17", "discord:", "discord:me", "ip:", "ip:300.1.1.1", "local", "ip:1.2.3.4/40"])
def test_unknown_owner_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(InputRefused, match="discord:<user or server id>"):
        parse_owner(text)


async def test_unreadable_setting_is_named_at_start(database: Database) -> None:
    with pytest.raises(ConfigurationError, match="STEMIFY_LIMITS__BLOCKED_OWNERS"):
        BlockList(database, ["bob"])
