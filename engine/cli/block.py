"""`python -m engine block|unblock OWNER` and `blocked`: edit the block list, also while the bot runs."""

from __future__ import annotations

from config.settings import Settings
from engine.database.blocklist import BlockList, parse_owner
from engine.database.database import Database


async def run_block_command(settings: Settings, command: str, owner: str | None) -> str:
    """Run one of the commands and return the text to print.

    Raises `InputRefused` and errors of the database.
    """
    name = None if owner is None else parse_owner(owner)
    database = await Database.open(settings.data_dir.expanduser() / "stemify.sqlite3", readers=1)
    try:
        blocked = BlockList(database, settings.limits.blocked_owners)
        if name is None:
            return "\n".join(await blocked.all()) or "No owner is blocked."
        if command == "block":
            await blocked.add(name)
            return f"{name} is blocked. Running jobs continue; new ones are refused."
        removed = await blocked.remove(name)
        if name in await blocked.all():
            return f"{name} is still blocked by the settings (limits.blocked_owners)."
        return f"{name} is no longer blocked." if removed else f"{name} was not blocked."
    finally:
        await database.close()
