"""Operate a running bot: stop it, back it up, and restore it after losing the disk."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.fakes.discord import FakeDiscord, Message, Person, Upload
from tests.fixtures.bot_process import ROOT, RunningBot
from tests.fixtures.log_file import assert_jobs_go_forward_only, events
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

pytestmark = pytest.mark.timeout(400)


def variables(folder: Path, **more: str) -> dict[str, str]:
    write_model(folder / "models")
    return {"STEMIFY_MODELS_DIR": str(folder / "models"), "STEMIFY_LOG__JSON_LINES": "true", **more}


@asynccontextmanager
async def bot_with_ann(folder: Path, **more: str) -> AsyncIterator[tuple[FakeDiscord, Person, RunningBot]]:
    """Run a bot with Ann as its user; `more` are environment variables."""
    async with FakeDiscord() as fake:
        fake.guild()
        ann = Person(fake, "ann")
        async with RunningBot(fake, folder / "data", variables=variables(folder, **more)) as bot:
            yield fake, ann, bot


async def engine(bot: RunningBot, *arguments: object) -> str:
    """Run `python -m engine …` on the bot's data folder and return its output."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "engine", *map(str, arguments)],
            cwd=ROOT, env={"STEMIFY_DATA_DIR": str(bot.folder), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def start_job(fake: FakeDiscord, person: Person, song: Path) -> Message:
    """Submit a song and return its message once the job runs."""
    upload = Upload(song.name, song.read_bytes())
    interaction = await person.slash(fake.channel(fake.guilds[0]), "stemify", file=upload)
    message = await person.answered(interaction)
    await fake.until(lambda: "%" in message.text, "the job to run", 60)
    return message


def rows(data: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(data / "stemify.sqlite3")) as store:
        return store.execute("SELECT status, attempt FROM jobs ORDER BY created_at").fetchall()


async def test_sigterm_hands_job_to_next_start(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=30)
    async with bot_with_ann(tmp_path, STEMIFY_WORKERS__SHUTDOWN_GRACE_S="0.5") as (fake, ann, bot):
        message = await start_job(fake, ann, tmp_path / "song.mp3")
        assert await bot.stop() == 0
        assert "stems ·" not in message.text, "too fast to be interrupted"
        assert rows(bot.folder) == [("processing", 1)]
        assert list((bot.folder / "scratch").iterdir()) == []
        await bot.start()
        await fake.until(lambda: "stems ·" in message.text, "the song's end", 200)
        await fake.until(lambda: fake.mentions_of(ann.user), "the mention")
        assert rows(bot.folder) == [("completed", 1)], "an orderly stop must not count as an attempt"
    (history,) = assert_jobs_go_forward_only(events(bot.log_path)).values()
    assert history == ["accepted", "started", "handed back", "started", "completed"]
    assert len(fake.mentions_of(ann.user)) == 1


async def test_second_ctrl_c_skips_wait_and_keeps_attempt(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=30)
    only = {"STEMIFY_WORKERS__SHUTDOWN_GRACE_S": "60", "STEMIFY_WORKERS__MAX_ATTEMPTS": "1"}
    async with bot_with_ann(tmp_path, **only) as (fake, ann, bot):
        message = await start_job(fake, ann, tmp_path / "song.mp3")
        assert bot.process is not None
        bot.process.send_signal(signal.SIGINT)
        await bot.logs("Ctrl-C again to skip")
        bot.process.send_signal(signal.SIGINT)
        await asyncio.wait_for(bot.process.wait(), 15)
        assert await bot.stop() == 0
        assert rows(bot.folder) == [("processing", 1)]
        await bot.start()
        await fake.until(lambda: "stems ·" in message.text, "the song's end", 200)
        assert rows(bot.folder) == [("completed", 1)]


async def test_files_of_bot_and_backup_are_private(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=3)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stemify.lock").touch()
    (tmp_path / "data").chmod(0o755)
    async with bot_with_ann(tmp_path) as (fake, ann, bot):
        await start_job(fake, ann, tmp_path / "song.mp3")
        await fake.until(lambda: fake.mentions_of(ann.user), "the mention", 100)
        await engine(bot, "backup", tmp_path / "backup")
        written = [bot.folder, *bot.folder.rglob("*"), tmp_path / "backup", *(tmp_path / "backup").rglob("*")]
    assert {"stemify.sqlite3", "stemify.sqlite3-wal", "bot.sqlite3", "backup.json"} <= {path.name for path in written}
    assert any(path.suffix == ".mp3" for path in written)
    still_there = [path for path in written if path.exists() and path.name != "stemify.lock"]
    assert [str(path) for path in still_there if path.stat().st_mode & 0o077] == []
    assert "was open to other users" in bot.log_path.read_text()


async def test_sigterm_waits_for_nearly_finished_job(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=4)
    async with bot_with_ann(tmp_path) as (fake, ann, bot):
        await start_job(fake, ann, tmp_path / "song.mp3")
        assert await bot.stop() == 0
        assert rows(bot.folder) == [("completed", 1)]
        await bot.start()  # it may have been stopped before the announcement
        await fake.until(lambda: fake.mentions_of(ann.user), "the mention")
        await asyncio.sleep(0.5)
    assert len(fake.mentions_of(ann.user)) == 1


async def test_restored_backup_resumes_jobs_after_disk_loss(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=4)
    make_song(tmp_path / "long.mp3", seconds=30)
    async with FakeDiscord() as fake:
        fake.guild()
        ann, bob = Person(fake, "ann"), Person(fake, "bob")
        async with RunningBot(fake, tmp_path / "data", variables=variables(tmp_path)) as bot:
            await start_job(fake, ann, tmp_path / "song.mp3")
            await fake.until(lambda: fake.mentions_of(ann.user), "the first song's end", 60)
            second = await start_job(fake, bob, tmp_path / "long.mp3")
            output = await engine(bot, "backup", tmp_path / "backup")
            assert re.search(r"Backed up to .*: 2 databases, 9 files, [\d.]+ MB", output), output
            assert "stems ·" not in second.text, "too fast to be interrupted"
            await bot.kill()
            shutil.rmtree(bot.folder)
            output = await engine(bot, "restore", tmp_path / "backup")
            assert "2 databases, 9 files" in output
            await bot.start()
            await fake.until(lambda: fake.mentions_of(bob.user), "the second song's end", 200)
            assert "stems ·" in second.text
            listed = await ann.slash(fake.channel(fake.guilds[0]), "job list")
            assert "song" in (await ann.answered(listed)).text
            await asyncio.sleep(0.5)
    assert [len(fake.mentions_of(person.user)) for person in (ann, bob)] == [1, 1], (
        "the first must not be announced again"
    )
    assert rows(tmp_path / "data") == [("completed", 1), ("completed", 2)]
