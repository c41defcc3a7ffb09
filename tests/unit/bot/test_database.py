"""The bot forgets what is over for long, and nothing else."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bot.database import BotDatabase, JobMessage, JobMessageState
from bot.deletion import JobDeleter
from config.settings import load
from engine.errors import NotFound

DAY_S = 86_400


async def test_done_before_lists_old_finished_messages(tmp_path: Path) -> None:
    memory = await BotDatabase.open(tmp_path / "bot.sqlite3")
    ages = {"fresh": 1, "old": 100, "older": 200, "running": 300}
    for name in ages:
        await memory.add(JobMessage(name, user_id=1, channel_id=2, token="secret", token_until=time.time() + 60))
        await memory.set_state(name, JobMessageState.FOLLOWING if name == "running" else JobMessageState.DONE)
    with closing(sqlite3.connect(tmp_path / "bot.sqlite3")) as database, database:
        for name, days in ages.items():
            database.execute("UPDATE posting SET created_at = created_at - ? WHERE job_id = ?", (days * DAY_S, name))
    found = await memory.done_before(time.time() - 90 * DAY_S, limit=1)
    assert [posting.job_id for posting in found] == ["old"]
    found = await memory.done_before(found[-1].created_at, limit=1)
    assert [posting.job_id for posting in found] == ["older"]
    await memory.close()


async def test_a_token_that_opens_nothing_any_more_is_not_kept(tmp_path: Path) -> None:
    memory = await BotDatabase.open(tmp_path / "bot.sqlite3")
    await memory.add(JobMessage("dead", user_id=1, channel_id=2, token="secret", token_until=time.time() - 1))
    await memory.add(JobMessage("alive", user_id=1, channel_id=2, token="secret", token_until=time.time() + 60))
    await memory.drop_dead_tokens()
    postings = await memory.job_messages(["dead", "alive"])
    assert (postings["dead"].token, postings["alive"].token) == (None, "secret")
    await memory.close()


async def test_purge_spares_kept_jobs_and_doubtful_clock(
    tmp_path: Path,
) -> None:
    async def get(job_id: str) -> Any:
        if job_id == "kept":
            return SimpleNamespace(job=SimpleNamespace(keep=True))
        raise NotFound

    now = datetime.now(UTC)
    memory = await BotDatabase.open(tmp_path / "bot.sqlite3")
    for name in ("kept", "gone"):
        await memory.add(JobMessage(name, user_id=1, channel_id=2))
        await memory.set_state(name, JobMessageState.DONE)
    with closing(sqlite3.connect(tmp_path / "bot.sqlite3")) as database, database:
        database.execute("UPDATE posting SET created_at = created_at - ?", (91 * DAY_S,))
    house = SimpleNamespace(steady_now=lambda: now - timedelta(days=91))
    bot: Any = SimpleNamespace(
        memory=memory, house=house, settings=load(data_dir=tmp_path), service=SimpleNamespace(get=get)
    )
    removal = JobDeleter(bot)
    await removal.forget_once()
    assert set(await memory.job_messages(["kept", "gone"])) == {"kept", "gone"}, "the machine's clock may be wrong"
    house.steady_now = lambda: now
    await removal.forget_once()
    assert set(await memory.job_messages(["kept", "gone"])) == {"kept"}
    await memory.close()
