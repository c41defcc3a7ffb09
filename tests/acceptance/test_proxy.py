"""The bot behind a proxy; only the proxy can resolve the fake Discord's name."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trustme

from tests.acceptance.conftest import SONG
from tests.fakes.discord import FakeDiscord, Person
from tests.fakes.logging_proxy import LoggingProxy
from tests.fixtures.bot_process import RunningBot

NAME = "discord.invalid"


@asynccontextmanager
async def unreachable_discord(tmp_path: Path) -> AsyncIterator[tuple[FakeDiscord, dict[str, str]]]:
    """Run a fake Discord with TLS; yield it and the variables with which a bot trusts its certificate."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    certificates = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(certificates))
    async with FakeDiscord(name=NAME, tls=context) as fake:
        yield fake, {"SSL_CERT_FILE": str(certificates)}


async def test_proxy_setting_serves_gateway_rest_and_attachments(tmp_path: Path) -> None:
    async with LoggingProxy("ann", "pass-word") as proxy, unreachable_discord(tmp_path) as (fake, trust):
        songs, ann = fake.channel(fake.guild()), Person(fake, "ann")
        variables = trust | {"STEMIFY_DISCORD__PROXY": proxy.url}
        async with RunningBot(fake, tmp_path / "data", variables=variables) as bot:
            answer = await ann.answered(await ann.slash(songs, "stemify", file=SONG), timeout_s=60)
            assert "not an audio file" in answer.text
            assert "pass-word" not in bot.log_path.read_text()
        assert fake.cdn_hits, "the attachment must be fetched"
        assert len(proxy.targets) >= 3 and set(proxy.targets) == {fake.host}
        assert proxy.refused == 0


async def test_proxy_variable_is_the_default(tmp_path: Path) -> None:
    async with LoggingProxy() as proxy, unreachable_discord(tmp_path) as (fake, trust):
        songs, ann = fake.channel(fake.guild()), Person(fake, "ann")
        variables = trust | {"HTTPS_PROXY": proxy.url, "NO_PROXY": "example.org"}
        async with RunningBot(fake, tmp_path / "data", scripted=True, variables=variables):
            message = await ann.answered(await ann.slash(songs, "stemify", file=SONG))
            await fake.until(lambda: fake.mentions_of(ann.user), "the announcement")
            assert "4 stems ·" in message.text
        assert set(proxy.targets) == {fake.host}


async def test_rejected_proxy_password_is_not_logged(tmp_path: Path) -> None:
    async with LoggingProxy("ann", "another") as proxy, unreachable_discord(tmp_path) as (fake, trust):
        wrong = proxy.url.replace("another", "pass-word")
        variables = trust | {"STEMIFY_DISCORD__PROXY": wrong}
        bot = RunningBot(fake, tmp_path / "data", scripted=True, variables=variables)
        await bot.start(connects=False)
        await bot.logs("Discord cannot be reached (ClientHttpProxyError)")
        assert "pass-word" not in bot.log_path.read_text()
        assert await bot.stop() == 0
