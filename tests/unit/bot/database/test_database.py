"""The bot's database and its purge."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bot.database.database import BotDatabase, JobMessage, JobMessageState
from bot.deletion.purge import DatabasePurger
from engine.errors import NotFound

DAY_S = 86_400


async def test_done_before_lists_old_finished_messages(tmp_path: Path) -> None:
    database = await BotDatabase.open(tmp_path / "bot.sqlite3")
    ages = {"fresh": 1, "old": 100, "older": 200, "running": 300}
    for name in ages:
        await database.add(JobMessage(name, user_id=1, channel_id=2, token="secret", token_until=time.time() + 60))
        await database.set_state(name, JobMessageState.FOLLOWING if name == "running" else JobMessageState.DONE)
    with closing(sqlite3.connect(tmp_path / "bot.sqlite3")) as connection, connection:
        for name, days in ages.items():
            connection.execute("UPDATE posting SET created_at = created_at - ? WHERE job_id = ?", (days * DAY_S, name))
    found = await database.done_before(time.time() - 90 * DAY_S, limit=1)
    assert [each.job_id for each in found] == ["old"]
    found = await database.done_before(found[-1].created_at, limit=1)
    assert [each.job_id for each in found] == ["older"]
    await database.close()


async def test_clear_expired_tokens_spares_valid_ones(tmp_path: Path) -> None:
    database = await BotDatabase.open(tmp_path / "bot.sqlite3")
    await database.add(JobMessage("dead", user_id=1, channel_id=2, token="secret", token_until=time.time() - 1))
    await database.add(JobMessage("alive", user_id=1, channel_id=2, token="secret", token_until=time.time() + 60))
    await database.clear_expired_tokens()
    found = await database.job_messages(["dead", "alive"])
    assert (found["dead"].token, found["alive"].token) == (None, "secret")
    await database.close()


async def test_purge_forgets_what_was_started_in_servers(tmp_path: Path) -> None:
    database = await BotDatabase.open(tmp_path / "bot.sqlite3")
    for name in ("old", "new"):
        await database.servers.add_job(name, guild_id=1, user_id=2, limit=None)
    with closing(sqlite3.connect(tmp_path / "bot.sqlite3")) as connection, connection:
        connection.execute("UPDATE server_job SET at = at - ? WHERE job_id = 'old'", (31 * DAY_S,))
    service: Any = SimpleNamespace()
    await DatabasePurger(database, service, lambda: datetime.now(UTC), retention_days=90).purge()
    assert [job.job_id for job in await database.servers.jobs(1, limit=9)] == ["new"]
    await database.close()


async def test_purge_spares_kept_jobs_and_doubtful_clock(tmp_path: Path) -> None:
    async def get(job_id: str) -> Any:
        if job_id == "kept":
            return SimpleNamespace(job=SimpleNamespace(keep=True))
        raise NotFound

    now = datetime.now(UTC)
    database = await BotDatabase.open(tmp_path / "bot.sqlite3")
    for name in ("kept", "gone"):
        await database.add(JobMessage(name, user_id=1, channel_id=2))
        await database.set_state(name, JobMessageState.DONE)
    with closing(sqlite3.connect(tmp_path / "bot.sqlite3")) as connection, connection:
        connection.execute("UPDATE posting SET created_at = created_at - ?", (91 * DAY_S,))
    service: Any = SimpleNamespace(get=get)
    await DatabasePurger(database, service, lambda: now - timedelta(days=91), retention_days=90).purge()
    assert set(await database.job_messages(["kept", "gone"])) == {"kept", "gone"}, "the machine's clock may be wrong"
    await DatabasePurger(database, service, lambda: now, retention_days=90).purge()
    assert set(await database.job_messages(["kept", "gone"])) == {"kept"}
    await database.close()
