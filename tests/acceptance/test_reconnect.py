"""The process survives every Discord failure and reconnects."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Channel, FakeDiscord, Fault, Person
from tests.fakes.discord.state import Attachment, Message
from tests.fixtures.bot_process import RunningBot

INVALID_BASE64 = "A"
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Scene:
    """A fake Discord with one channel and one user, and a scripted bot."""

    def __init__(self, fake: FakeDiscord, folder: Path, **variables: str) -> None:
        self.fake = fake
        self.guild = fake.guild()
        self.songs = fake.channel(self.guild)
        self.ann = Person(fake, "ann")
        self.bot = RunningBot(fake, folder, scripted=True, variables={"TEST_PAUSE_S": "0.3"} | variables)

    async def reconnected(self, identifies: int) -> None:
        await self.fake.until(lambda: self.fake.gateway.identifies > identifies, "a new session")

    async def finish_job(self, channel: Channel | None = None) -> None:
        interaction = await self.ann.slash(channel or self.songs, "stemify", file=SONG)
        message = await self.ann.answered(interaction)
        await self.fake.until(lambda: "4 stems ·" in message.text, "the stems")


@asynccontextmanager
async def scene(tmp_path: Path, *, start: bool = True, **variables: str) -> AsyncIterator[Scene]:
    async with FakeDiscord() as fake:
        at = Scene(fake, tmp_path / "data", **variables)
        if start:
            await at.bot.start()
        yield at
        assert at.bot.is_running, at.bot.log()
        assert await at.bot.stop() == 0


async def test_revoked_token_leaves_songs_running(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.bot.script(hold=["end"])
        message = await at.ann.answered(await at.ann.slash(at.songs, "stemify", file=SONG))
        await at.fake.until(lambda: "**50 %**" in message.text, "half of the song")
        at.fake.bot_token, token = "another-token-by-now", at.fake.bot_token
        identifies = at.fake.gateway.identifies
        await at.fake.gateway.close(4004)
        await at.bot.logs("Discord rejected the token. Check STEMIFY_DISCORD__TOKEN")
        at.bot.script()
        at.fake.bot_token = token
        await at.reconnected(identifies)
        await at.fake.until(lambda: at.fake.mentions_of(at.ann.user), "the announcement")
        assert "Traceback" not in at.bot.log()


async def test_wrong_token_at_start_keeps_the_page(tmp_path: Path) -> None:
    async with scene(tmp_path, start=False, STEMIFY_DISCORD__TOKEN="wrong") as at:
        await at.bot.start(connects=False)
        await at.bot.logs("Discord rejected the token. Check STEMIFY_DISCORD__TOKEN")
        await at.bot.logs("Stemify's page is at")
        assert "Traceback" not in at.bot.log()


async def test_required_shards_are_opened(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.fake.gateway.shards = 2
        other = at.fake.guild("Orchestra")
        while at.fake.gateway.shard_of(other.id) == at.fake.gateway.shard_of(at.guild.id):
            other.id += 1 << 22
        channel = at.fake.channel(other)
        identifies = at.fake.gateway.identifies
        await at.fake.gateway.close(4011)
        await at.bot.logs("Discord requires more shards (4011)")
        await at.fake.until(lambda: at.fake.gateway.identifies == identifies + 2, "two sessions")
        for place in (at.songs, channel):
            await at.finish_job(place)


async def test_closed_connection_is_opened_again(stage: Stage) -> None:
    for code in (1000, 4000, 4010, 4012, 4013):
        identifies = stage.fake.gateway.identifies
        await stage.fake.gateway.close(code)
        await stage.reconnected(identifies)
    await stage.finish_job()


async def test_refused_intents_are_not_requested_in_a_loop(tmp_path: Path) -> None:
    async with scene(tmp_path, start=False, TEST_PAUSE_S="3") as at:
        at.fake.gateway.allowed_intents = 0
        await at.bot.start(connects=False)
        await at.bot.logs("Discord does not allow the gateway intents (4014)")
        await asyncio.sleep(1)
        assert at.bot.log_path.read_text().count("(4014)") == 1


async def test_garbage_on_gateway_reconnects(stage: Stage) -> None:
    for frame in (b"\x00\x01 no zlib \x00\x00\xff\xff", "no json", '{"op": 10, "d": null}', "[]"):
        identifies = stage.fake.gateway.identifies
        await stage.fake.gateway.send_garbage(frame)
        await stage.reconnected(identifies)
    await stage.finish_job()


def skipped(stage: Stage, event: str) -> int:
    return stage.bot.log_path.read_text().count(f"skipped an event that cannot be parsed: {event}")


def is_skipped(stage: Stage, event: str, times: int) -> bool:
    return skipped(stage, event) == times


async def test_event_that_cannot_be_parsed_is_skipped(stage: Stage) -> None:
    gateway = stage.fake.gateway
    identifies = gateway.identifies
    assert gateway.session is not None
    for event in ("MESSAGE_CREATE", "INTERACTION_CREATE", "GUILD_CREATE", "TYPING_START"):
        before = skipped(stage, event)
        await gateway.session.dispatch(event, {})
        await stage.until(partial(is_skipped, stage, event, before + 1), f"the log line of {event}")
    await stage.finish_job()
    assert gateway.identifies == identifies, "the connection must stay"


async def test_malformed_waveform_is_skipped(stage: Stage) -> None:
    identifies, before = stage.fake.gateway.identifies, skipped(stage, "MESSAGE_CREATE")
    voice = Attachment("voice-message.ogg", b"1", "audio/ogg", waveform=INVALID_BASE64)
    stage.fake.host_file(voice)
    message = Message(stage.songs, stage.ann.user, attachments=[voice])
    stage.songs.messages[message.id] = message
    await stage.fake.gateway.dispatch("MESSAGE_CREATE", message.json() | {"guild_id": str(stage.band.id)})
    await stage.until(partial(is_skipped, stage, "MESSAGE_CREATE", before + 1), "the log line")
    interaction = await stage.ann.menu(message, "Stemify")
    assert "Something went wrong" in (await stage.ann.answered(interaction)).text
    assert stage.fake.gateway.identifies == identifies


@pytest.mark.parametrize(("status", "code"), [(400, 30034), (403, 50001), (429, 0), (500, 0)])
async def test_refused_command_sync_is_repeated(tmp_path: Path, status: int, code: int) -> None:
    async with scene(tmp_path, start=False) as at:
        at.fake.faults.append(Fault("PUT", "/commands$", status, code=code, times=1000))
        await at.bot.start()
        if status in (400, 403):
            await at.bot.logs(f"the previous ones: Discord answered {status} (code {code}")
        at.fake.faults.clear()
        await at.fake.until(lambda: at.fake.syncs == 1, "the commands")
        await at.finish_job()


async def test_dead_resume_address_leads_to_new_session(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed on exit, so nothing listens there
    async with scene(tmp_path, start=False) as at:
        at.fake.gateway.resume_url = f"ws://127.0.0.1:{port}"
        await at.bot.start()
        identifies = at.fake.gateway.identifies
        await at.fake.gateway.cut()
        await at.reconnected(identifies)
        await at.finish_job()


async def test_unreachable_gateway_is_tried_again(tmp_path: Path) -> None:
    async with scene(tmp_path, start=False) as at:
        faults = [Fault("GET", "/gateway/bot", 502, times=1000), Fault("GET", "/users/@me", 403, times=2)]
        at.fake.faults += faults
        await at.bot.start(connects=False)
        await at.bot.logs("next attempt in")
        at.fake.faults.clear()
        await at.fake.until(at.fake.gateway.ready.is_set, "the connection")
        await at.finish_job()
