"""Keep the bot connected to Discord.

No failure here ends the process: the web page and running jobs do not need Discord.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

import aiohttp
import discord
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bot.app import create_bot
from bot.client import ShardNotConnected, Stemify
from bot.database.database import BotDatabase
from bot.defaults import unusable_model
from bot.links import is_public
from config.proxies import proxy_for
from config.settings import Settings
from engine.backend import Backend

log = logging.getLogger(__name__)

PAUSES_S: tuple[float, ...] = (2.0, 5.0, 15.0, 60.0, 300.0)  # Discord allows 1000 identifies a day
REFUSED_PAUSE_S = 900.0  # after errors that need the operator
STABLE_S = 600.0  # a connection that lasted this long resets the pauses

LOGIN_REJECTED = (
    "Discord rejected the token. Check STEMIFY_DISCORD__TOKEN (or reset the token in the developer portal) and"
    " restart. The web page keeps running without Discord."
)
PRIVATE_LINKS = (
    "Discord messages have no links, because %s cannot be reached from the internet. Set STEMIFY_WEB__PUBLIC_URL to the"
    " public address of the page."
)
_BY_CLOSE_CODE = {
    4004: LOGIN_REJECTED,
    4010: "Discord rejected the shard number (4010). Requesting the number of shards again.",
    4011: "Discord requires more shards (4011). Requesting the number of shards again.",
    4012: "Discord no longer supports the gateway version that this release uses (4012). Update Stemify.",
    4013: "Discord rejected the gateway intents as invalid (4013). Update Stemify.",
    4014: "Discord does not allow the gateway intents (4014). Check Bot → Privileged Gateway Intents in the developer"
    " portal.",
}
_NEEDS_OPERATOR = (4004, 4012, 4013, 4014)


@dataclass(frozen=True)
class Disconnect:
    """Why the connection ended; `needs_operator`: retrying alone does not help."""

    text: str
    needs_operator: bool = False
    is_defect: bool = False


def describe_disconnect(error: Exception | None) -> Disconnect:
    """Describe the error that ended a connection, or None for a close without an error."""
    if error is None:
        return Disconnect("Discord closed the connection")
    if isinstance(error, discord.LoginFailure):
        return Disconnect(LOGIN_REJECTED, needs_operator=True)
    if isinstance(error, discord.PrivilegedIntentsRequired):
        return Disconnect(_BY_CLOSE_CODE[4014], needs_operator=True)
    if isinstance(error, discord.ConnectionClosed) and error.code in _BY_CLOSE_CODE:
        return Disconnect(_BY_CLOSE_CODE[error.code], needs_operator=error.code in _NEEDS_OPERATOR)
    if isinstance(error, discord.ConnectionClosed):
        return Disconnect(f"Discord closed the connection ({error.code})")
    if isinstance(error, discord.HTTPException):
        return Disconnect(f"Discord answered {error.status} ({error.text[:200]})")
    if isinstance(error, (aiohttp.ClientError, OSError, discord.GatewayNotFound, ShardNotConnected)):
        return Disconnect(f"Discord cannot be reached ({type(error).__name__})")
    return Disconnect(f"the Discord connection failed ({type(error).__name__})", is_defect=True)


async def run_bot(settings: Settings, backend: Backend, database: BotDatabase) -> None:
    """Stay connected until cancelled."""
    discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # no voice
    if backend.web_url is not None and not is_public(backend.web_url):
        log.warning(PRIVATE_LINKS, backend.web_url)
    if (unusable := unusable_model(settings.discord, backend.service.models())) is not None:
        log.warning("discord.default_model: %s", unusable)
    message_content = settings.discord.message_content
    failures = 0
    while True:
        since = time.monotonic()
        error = await _connect_once(settings, backend, database, message_content=message_content)
        if time.monotonic() - since > STABLE_S:
            failures = 0
        if message_content and isinstance(error, discord.PrivilegedIntentsRequired):
            log.warning("the message content intent is switched off for this bot; /listen will say so")
            message_content = False
            continue
        pause_s = PAUSES_S[min(failures, len(PAUSES_S) - 1)]
        failures += 1
        reason = describe_disconnect(error)
        if reason.needs_operator:
            pause_s = REFUSED_PAUSE_S
        log.log(
            logging.ERROR if reason.needs_operator or reason.is_defect else logging.WARNING,
            "%s; next attempt in %.0f s",
            reason.text.rstrip("."),
            pause_s,
            exc_info=error if reason.is_defect else None,
        )
        await asyncio.sleep(pause_s)


async def _connect_once(
    settings: Settings, backend: Backend, database: BotDatabase, *, message_content: bool
) -> Exception | None:
    """Run one client until its connection ends; return the error that ended it."""
    token = settings.discord.token
    assert token is not None
    bot: Stemify | None = None
    try:
        if settings.discord.api_url is not None:
            await use_api(settings.discord.api_url, settings.discord.proxy_url)
        bot = create_bot(settings, backend, database, message_content=message_content)
        await bot.start(token.get_secret_value())
    except Exception as error:
        return error
    finally:
        if bot is not None:
            await _close(bot)
    return None


async def _close(bot: Stemify) -> None:
    try:
        await bot.close()
    except Exception:
        log.exception("could not close the Discord client")


async def use_api(url: str, proxy: str | None) -> None:
    """Use another REST API and its gateway (for tests)."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/gateway", proxy=proxy_for(url, proxy)) as response,
    ):
        gateway = (await response.json())["url"]
    Route.BASE = url
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway)
