"""`kill -9` of the main process or a worker at random moments.

No accepted job is lost or announced twice, no partial file stays, and the log shows no step backwards.
STEMIFY_TEST_SEED sets another seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import av
import pytest

from engine.jobs.results import JobResult
from tests.fakes.discord import Channel, FakeDiscord, Guild, Message, Person, Upload
from tests.fixtures.bot_process import RunningBot, workers_of
from tests.fixtures.log_file import assert_jobs_go_forward_only, events
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

LENGTH_S = 4
MAX_WAITING = 12  # songs, well below the queue's limit
SEED = int(os.environ.get("STEMIFY_TEST_SEED", "11"))


async def ask_and_kill(bot: RunningBot, people: list[Person], band: Guild, song: Upload, chance: random.Random) -> None:
    """Submit songs, each in its own channel, and kill at any moment, while one runs, or while one is announced."""
    fake, began = bot.fake, time.time()
    for person in chance.sample(people, 2):
        await person.slash(fake.channel(band), "stemify", file=song, quality="fast")
        await asyncio.sleep(chance.uniform(0, 0.3))
    moment = chance.choice(("any", "running", "ending", "ending"))
    if moment != "any":
        signs = ("▱",) if moment == "running" else ("stems ·",)
        await fake.until(
            lambda: any(shown_since(began, *signs, channel=i.channel) for i in fake.interactions), moment, 600
        )
    await asyncio.sleep(chance.uniform(0, 0.4 if moment == "ending" else 1.5))
    workers = workers_of(bot)
    if workers and chance.random() < 0.5:
        os.kill(chance.choice(workers), signal.SIGKILL)
    else:
        await bot.kill()
        await bot.start()


def shown_since(began: float, *signs: str, channel: Channel) -> bool:
    versions = (version for message in channel.visible() for version in message.versions)
    return any(at > began and sign in text for at, text in versions for sign in signs)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.nightly)])
async def test_kills_lose_no_job_and_announce_once(tmp_path: Path, kills: int) -> None:
    chance = random.Random(SEED)
    write_model(tmp_path / "models")
    make_song(tmp_path / "song.mp3", seconds=LENGTH_S)
    song = Upload("song.mp3", (tmp_path / "song.mp3").read_bytes())
    async with FakeDiscord() as fake:
        band = fake.guild()
        people = [Person(fake, f"p{number}") for number in range(4 + kills)]
        variables = {
            "STEMIFY_MODELS_DIR": str(tmp_path / "models"),
            "STEMIFY_LIMITS__JOBS_PER_HOUR": "1000",
            "STEMIFY_LOG__JSON_LINES": "true",
        }
        async with RunningBot(fake, tmp_path / "data", variables=variables) as bot:
            for _ in range(kills):
                await fake.until(lambda: len(unsettled(fake)) <= MAX_WAITING, "some job's end", 600)
                await ask_and_kill(bot, people, band, song, chance)
            channels = [interaction.channel for interaction in fake.interactions]
            await fake.until(lambda: not unsettled(fake), "every job's end", 600)
            await asyncio.sleep(1)
            assert await bot.stop() == 0
    log = events(bot.log_path)
    assert not [event for event in log if "error" in event], "a traceback"
    histories = assert_jobs_go_forward_only(log)
    ends = Counter(history[-1] for history in histories.values())
    print(f"{kills} kills, {len(histories)} jobs: {dict(ends)}")
    assert ends["completed"] >= kills / 3, "too few completed jobs"
    check(tmp_path / "data", channels, histories)


def answer_in(channel: Channel) -> Message:
    return next(iter(channel.messages.values()))


def unsettled(fake: FakeDiscord) -> list[Channel]:
    return [interaction.channel for interaction in fake.interactions if not is_settled(interaction.channel)]


def is_settled(channel: Channel) -> bool:
    """Return whether the channel's job has been announced, or its message says that there is none.

    A response stays empty if the bot was killed before it recorded the job; Discord shows that as failed.
    """
    messages = channel.visible()
    if not messages:
        return True
    if messages[0].loading:
        return time.time() - messages[0].created_at > 25
    text = messages[0].text
    return "send that again" in text or (len(messages) >= 2 and ("stems ·" in text or "Separation failed" in text))


def check(data: Path, channels: list[Channel], histories: Mapping[str, list[str]]) -> None:
    """Check that every accepted job ended, was announced once, has complete stems, and left nothing else."""
    with (
        closing(sqlite3.connect(data / "stemify.sqlite3")) as store,
        closing(sqlite3.connect(data / "bot.sqlite3")) as bot,
    ):
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert bot.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert bot.execute("SELECT count(*) FROM posting WHERE state <> 'done'").fetchone() == (0,)
        rows = store.execute("SELECT id, place, status, attempt, result FROM jobs").fetchall()
    accepted = {place: (status, result) for _, place, status, _, result in rows}
    assert len(accepted) == len(rows), "one job per channel"
    assert set(histories) <= {job_id for job_id, *_ in rows}, "the log has a job that was lost"
    for channel in channels:
        status, result = accepted.get(f"discord:{channel.id}", ("none", None))
        pings = sum(len(message.pinged) for message in channel.visible())
        assert pings == (0 if status == "none" else 1), (status, [message.text for message in channel.visible()])
        assert status in ("none", "completed", "failed")
        if status == "completed":
            assert "stems ·" in answer_in(channel).text
    for job_id, _, status, attempt, result in rows:  # the sweeper deletes the folders of songs that were never accepted
        folder = data / "jobs" / job_id
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        if status == "completed":
            job_result = JobResult.model_validate_json(result)
            stems, music = dict(job_result.stems), job_result.music
            expected = {Path(stem.path).name for stem in stems.values()} | {"waveform.png", "peaks.json"}
            assert music is not None
            expected |= {Path(path).name for path in (music.beats_path, music.chords_path) if path is not None}
            kept = {f"a{attempt}/{name}" for name in expected} | {"input"}
            assert files == kept, "all files of the result, the song and no others"
            for stem in stems.values():
                assert (data / stem.path).stat().st_size == stem.size
                assert length_s(data / stem.path) == pytest.approx(LENGTH_S, abs=0.1)
        else:
            assert files <= {"input"}, "only what a retry needs"
    assert list((data / "scratch").rglob("*")) == []


def length_s(path: Path) -> float:
    """Return the decoded length."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        return sum(frame.samples for frame in container.decode(stream)) / stream.rate
