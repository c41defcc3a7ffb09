"""The server: one port for REST, gateway and CDN, request handling, and waiting for conditions."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from aiohttp import web

from tests.fakes.discord.faults import Buckets, Fault
from tests.fakes.discord.forms import RequestRejected
from tests.fakes.discord.gateway import Gateway
from tests.fakes.discord.rest import Rest
from tests.fakes.discord.state import (
    Attachment,
    Channel,
    Guild,
    Interaction,
    Json,
    Message,
    Role,
    User,
)

if TYPE_CHECKING:
    from tests.fakes.discord.voice import FakeVoice

ROOT = "/api/v10"
MALFORMED = (50035, 50006, 50109)  # always the bot's mistake
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Seen:
    """A request and its response."""

    at: float
    method: str
    path: str
    status: int | str


class FakeDiscord:
    """`async with FakeDiscord() as fake:`; the bot connects with `fake.api_url` and `fake.bot_token`."""

    bot_token = "a-token-of-the-fake-discord"

    def __init__(self, *, name: str = "127.0.0.1", tls: ssl.SSLContext | None = None, strict: bool = True) -> None:
        """Listen on loopback, with the host `name` in all URLs.

        `strict`: fail on exit if the bot sent a payload that breaks Discord's rules.
        """
        self.strict = strict
        self.name = name
        self.tls = tls
        self.bot = User("Stemify", bot=True)
        self.application_id = self.bot.id
        self.users: dict[int, User] = {}
        self.guilds: list[Guild] = []
        self.channels: dict[int, Channel] = {}
        self.interactions: list[Interaction] = []
        self.commands: list[Json] = []
        self.clock_ahead_s = 0.0  # of Discord's clock; it stamps the ids of interactions
        self.syncs = 0
        self.faults: list[Fault] = []
        self.blocked_words: dict[int, str] = {}  # by the error code of the filter that blocks them in servers
        self.seen: list[Seen] = []
        self.cdn_hits: list[str] = []
        self.defects: list[str] = []  # of this fake, or unexpected requests
        self.violations: list[str] = []  # requests that break Discord's rules; fatal if strict
        self.buckets = Buckets()
        self.files: dict[str, Attachment] = {}
        self.voice: FakeVoice | None = None
        self.gateway = Gateway(self)
        self._condition = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.host = ""

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._every_request], client_max_size=2**30)
        app.add_routes(Rest(self).routes(ROOT))
        app.add_routes([web.get("/gateway", self.gateway.connect), web.get("/attachments/{path:.*}", self._cdn)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.host = f"{self.name}:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        assert not self.defects, self.defects[0]
        assert not (self.strict and self.violations), self.violations

    @property
    def api_url(self) -> str:
        return f"http{self._s}://{self.host}{ROOT}"

    @property
    def gateway_url(self) -> str:
        return f"ws{self._s}://{self.host}/gateway"

    @property
    def _s(self) -> str:
        return "" if self.tls is None else "s"

    # Servers, channels and users.

    def guild(self, name: str = "Band", *, premium_tier: int = 0, bot_is_member: bool = True) -> Guild:
        guild = Guild(name, premium_tier, bot_is_member)
        self.guilds.append(guild)
        return guild

    def channel(self, guild: Guild, name: str = "songs", kind: int = 0) -> Channel:
        channel = Channel(name, guild, kind=kind)
        guild.channels.append(channel)
        self.channels[channel.id] = channel
        return channel

    async def role(self, guild: Guild, name: str) -> Role:
        """Create a role in a server that the bot sees."""
        role = Role(name)
        guild.roles.append(role)
        await self.gateway.dispatch("GUILD_ROLE_CREATE", {"guild_id": str(guild.id), "role": role.json()})
        return role

    def thread(self, parent: Channel, name: str = "a thread") -> Channel:
        channel = Channel(name, parent.guild, parent=parent)
        self.channels[channel.id] = channel
        return channel

    def user(self, name: str) -> User:
        user = User(name)
        self.users[user.id] = user
        return user

    def dm_of(self, user: User) -> Channel:
        for channel in self.channels.values():
            if channel.recipient is user:
                return channel
        channel = Channel(f"dm of {user.name}", recipient=user)
        self.channels[channel.id] = channel
        return channel

    def stated_limit_bytes(self, channel: Channel) -> int:
        return channel.stated_limit_bytes

    def host_file(self, attachment: Attachment) -> None:
        if not attachment.url:
            path = f"attachments/1/{attachment.id}/{quote(attachment.filename, safe='')}"
            attachment.url = f"http{self._s}://{self.host}/{path}?ex=1&is=1&hm=1"
        self.files[str(attachment.id)] = attachment

    # Waiting.

    async def changed(self) -> None:
        async with self._condition:
            self._condition.notify_all()

    async def until(self, condition: Callable[[], object], description: str = "", timeout_s: float = 60) -> None:
        """Wait until `condition()` is true, or fail with all visible messages."""
        try:
            async with self._condition, asyncio.timeout(timeout_s):
                while not condition():
                    with suppress(TimeoutError):  # the condition may also depend on the clock
                        await asyncio.wait_for(self._condition.wait(), 1)
        except TimeoutError:
            raise AssertionError(f"no {description} within {timeout_s} s\n{self.transcript()}") from None

    def transcript(self) -> str:
        """Return the visible messages of every channel, for a failing test."""
        lines = []
        for channel in self.channels.values():
            lines.append(f"#{channel.name}")
            lines += [
                f"  {m.author.name}: {m.text!r} {[b.get('label') for b in m.buttons()]}"
                for m in channel.messages.values()
            ]
        return "\n".join(lines[-60:])

    def mentions_of(self, user: User) -> list[Message]:
        """Return the messages that mentioned this user."""
        return [m for channel in self.channels.values() for m in channel.messages.values() if user.id in m.pinged]

    # Requests.

    @web.middleware
    async def _every_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(ROOT):
            return await handler(request)
        path = request.path.removeprefix(ROOT)
        fault = next((fault for fault in self.faults if fault.matches(request.method, path)), None)
        if fault is not None:
            fault.hits += 1
            if fault.after:
                await self._answer(request, handler, path)
            return await self._fail(request, path, fault)
        response = await self._answer(request, handler, path)
        self.seen.append(Seen(time.time(), request.method, path, response.status))
        return response

    async def _answer(self, request: web.Request, handler: Handler, path: str) -> web.StreamResponse:
        by_token = re.match(r"/(webhooks|interactions)/|/gateway$", path)
        if not by_token and request.headers.get("Authorization") != f"Bot {self.bot_token}":
            return _error(401, 0, "401: Unauthorized")
        allowed, headers, wait_s = self.buckets.take(request.method, path)
        if not allowed:
            return _limited(wait_s, headers)
        try:
            response = await handler(request)
        except RequestRejected as refused:
            if refused.code in MALFORMED:
                self.violations.append(f"{request.method} {path}: {refused.code} {refused}")
            response = _error(refused.status, refused.code, refused.message, refused.errors)
        except web.HTTPException as error:
            response = _error(error.status, 0, error.reason)
        except ConnectionResetError:
            raise  # the bot was killed while sending
        except Exception:
            self.defects.append(traceback.format_exc())
            raise
        response.headers.update(headers)
        if response.headers.get("Content-Type", "").startswith("application/json"):
            response.headers["Content-Type"] = "application/json"  # the only type that discord.py parses
        return response

    async def _fail(self, request: web.Request, path: str, fault: Fault) -> web.StreamResponse:
        self.seen.append(Seen(time.time(), request.method, path, fault.status))
        if fault.status == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        if fault.status == 429:
            return _limited(0.2, {})
        return _error(fault.status, fault.code, fault.message)

    async def _cdn(self, request: web.Request) -> web.StreamResponse:
        self.cdn_hits.append(request.path)
        found = self.files.get(request.match_info["path"].split("/")[1])
        if found is None:
            raise web.HTTPNotFound
        return web.Response(body=found.data, headers={"Content-Type": found.content_type})

    def add_interaction(self, interaction: Interaction) -> None:
        self.interactions.append(interaction)

    def rate_limited(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.status == 429]

    def requests(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method and re.search(path, seen.path)]


def _error(status: int, code: int, message: str, errors: Json | None = None) -> web.Response:
    return _json(status, {"code": code, "message": message} | ({"errors": errors} if errors else {}), {})


def _limited(wait_s: float, headers: dict[str, str]) -> web.Response:
    body = {"message": "You are being rate limited.", "retry_after": round(wait_s, 3), "global": False}
    return _json(429, body, headers | {"Via": "1.1 google"})


def _json(status: int, body: Json, headers: dict[str, str]) -> web.Response:
    """Return JSON without a charset: discord.py parses exactly `application/json`."""
    content = {"Content-Type": "application/json"}
    return web.Response(body=json.dumps(body).encode(), status=status, headers=headers | content)
