"""The gateway: sessions, heartbeats, resume with replay, reconnects and dispatched events."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from tests.fakes.discord.state import Guild, Json, iso, snowflake

if TYPE_CHECKING:
    from tests.fakes.discord.server import FakeDiscord

DISPATCH, HEARTBEAT, IDENTIFY, RESUME, RECONNECT, INVALID_SESSION, HELLO, ACK = 0, 1, 2, 6, 7, 9, 10, 11
VOICE_STATE = 4
GUILD_VOICE_STATES, GUILD_MESSAGES, DIRECT_MESSAGES, MESSAGE_CONTENT = 1 << 7, 1 << 9, 1 << 12, 1 << 15


@dataclass(eq=False)
class Session:
    intents: int
    shard: int = 0
    id: str = field(default_factory=lambda: f"session-{snowflake()}")
    sent: list[Json] = field(default_factory=list)
    socket: web.WebSocketResponse | None = None
    transport: asyncio.Transport | None = None

    async def dispatch(self, event: str, data: Json) -> None:
        packet = {"op": DISPATCH, "t": event, "s": len(self.sent) + 1, "d": data}
        self.sent.append(packet)
        await self.push(packet)

    async def push(self, packet: Json) -> None:
        if self.socket is not None:
            with suppress(ConnectionError):
                await self.socket.send_str(json.dumps(packet))


class Gateway:
    def __init__(self, fake: FakeDiscord) -> None:
        self.fake = fake
        self.sessions: dict[int, Session] = {}  # by shard
        self.shards = 1  # required by Discord
        self.allowed_intents = ~0
        self.resume_url: str | None = None  # None: the gateway's own
        self.identifies = 0
        self.resumes = 0
        self.ready = asyncio.Event()  # set while a bot is connected

    @property
    def session(self) -> Session | None:
        """The session of shard 0, which also receives direct messages."""
        return self.sessions.get(0)

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        await socket.send_json({"op": HELLO, "d": {"heartbeat_interval": 41250}})
        session: Session | None = None
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    break
                packet = json.loads(message.data)
                if packet["op"] == HEARTBEAT:
                    await socket.send_json({"op": ACK})
                elif packet["op"] == IDENTIFY:
                    session = await self._identify(socket, packet["d"])
                elif packet["op"] == VOICE_STATE and self.fake.voice is not None:
                    channel_id = packet["d"]["channel_id"]
                    await self.fake.voice.move_bot(int(packet["d"]["guild_id"]), channel_id and int(channel_id))
                elif packet["op"] == RESUME:
                    session = await self._resume(socket, packet["d"])
                if session is not None:
                    session.transport = request.transport
        except ConnectionError:
            pass
        finally:
            if session is not None and session.socket is socket:
                session.socket = None
                self.ready.clear()
        return socket

    async def _identify(self, socket: web.WebSocketResponse, data: Json) -> Session | None:
        if data["token"] != self.fake.bot_token:
            await socket.close(code=4004, message=b"Authentication failed.")
            return None
        if data["intents"] & ~self.allowed_intents:
            await socket.close(code=4014, message=b"Disallowed intent(s).")
            return None
        shard, count = data.get("shard", [0, 1])
        if count < self.shards:
            await socket.close(code=4011, message=b"Sharding required.")
            return None
        self.identifies += 1
        session = self.sessions[shard] = Session(intents=data["intents"], shard=shard, socket=socket)
        guilds = [guild for guild in self.fake.guilds if guild.bot_is_member and self.shard_of(guild.id) == shard]
        await session.dispatch(
            "READY",
            {
                "v": 10, "user": self.fake.bot.json(), "session_id": session.id,
                "guilds": [{"id": str(guild.id), "unavailable": True} for guild in guilds],
                "resume_gateway_url": self.resume_url or self.fake.gateway_url, "shard": [shard, count],
                "application": {"id": str(self.fake.application_id), "flags": 0}, "private_channels": [],
            },
        )  # fmt: skip
        for guild in guilds:
            await session.dispatch("GUILD_CREATE", self._joined(guild))
        if len(self.sessions) >= self.shards:
            self.ready.set()
        await self.fake.changed()
        return session

    async def join(self, guild: Guild) -> None:
        """Add the bot to a server that was created while it was connected."""
        joined = self._joined(guild)
        del joined["unavailable"]  # only servers of READY have it
        await self.dispatch("GUILD_CREATE", joined)

    def _joined(self, guild: Guild) -> Json:
        return guild.json() | {"members": [self._own_member()]}

    def _own_member(self) -> Json:
        return {
            "user": self.fake.bot.json(), "roles": [], "joined_at": iso(0), "deaf": False, "mute": False, "flags": 0,
        }  # fmt: skip

    def shard_of(self, guild_id: int) -> int:
        return (guild_id >> 22) % self.shards

    async def _resume(self, socket: web.WebSocketResponse, data: Json) -> Session | None:
        session = next((known for known in self.sessions.values() if known.id == data["session_id"]), None)
        if session is None:
            await socket.send_json({"op": INVALID_SESSION, "d": False})
            return None
        self.resumes += 1
        session.socket = socket
        for packet in session.sent[data["seq"] :]:
            await session.push(packet)
        await session.dispatch("RESUMED", {})
        self.ready.set()
        await self.fake.changed()
        return session

    async def dispatch(self, event: str, data: Json) -> None:
        """Send an event, or keep it for the resume of a disconnected session."""
        guild_id = data.get("guild_id") or (data["id"] if event.startswith("GUILD_") else None)
        session = self.sessions.get(0 if guild_id is None else self.shard_of(int(guild_id)))
        assert session is not None, "no bot has identified"
        if event == "MESSAGE_CREATE":
            needed = GUILD_MESSAGES if "guild_id" in data else DIRECT_MESSAGES
            if not session.intents & needed:
                return
            if not session.intents & MESSAGE_CONTENT and "guild_id" in data:
                data = data | {"content": "", "attachments": [], "embeds": [], "components": []}
                data.pop("message_snapshots", None)
        if event == "VOICE_STATE_UPDATE" and not session.intents & GUILD_VOICE_STATES:
            return
        if event.startswith("MESSAGE_DELETE"):
            needed = GUILD_MESSAGES if "guild_id" in data else DIRECT_MESSAGES
            if not session.intents & needed:
                return
        await session.dispatch(event, data)

    async def ask_to_reconnect(self) -> None:
        """Send op 7 and close the socket; the bot resumes."""
        assert self.session is not None
        await self.session.push({"op": RECONNECT, "d": None})

    async def cut(self) -> None:
        """Drop the connection; events until the resume are replayed."""
        assert self.session is not None
        if self.session.socket is not None:
            self.session.socket = None
            self.ready.clear()
        if self.session.transport is not None:
            self.session.transport.abort()

    async def invalidate(self) -> None:
        """Send op 9: the bot has to identify again."""
        session = self.sessions.pop(0)
        self.ready.clear()
        await session.push({"op": INVALID_SESSION, "d": False})

    async def close(self, code: int) -> None:
        """Close the connection with a code, and forget the session."""
        session = self.sessions.pop(0)
        self.ready.clear()
        if session.socket is not None:
            await session.socket.close(code=code)

    async def send_garbage(self, data: bytes | str) -> None:
        """Send a frame that is not a packet."""
        assert self.session is not None and self.session.socket is not None
        if isinstance(data, bytes):
            await self.session.socket.send_bytes(data)
        else:
            await self.session.socket.send_str(data)
