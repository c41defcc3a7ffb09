"""A voice server: voice gateway version 8 over TLS, UDP with `aead_xchacha20_poly1305_rtpsize`.

It belongs to one bot. Others in its channels are voice states only. Without end-to-end encryption, as on a stage.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import nacl.bindings
import trustme
from aiohttp import WSMsgType, web

from tests.fakes.discord.state import Channel, Guild, Json, User, iso, snowflake

if TYPE_CHECKING:
    from tests.fakes.discord.server import FakeDiscord

MODE = "aead_xchacha20_poly1305_rtpsize"
SSRC = 77
IDENTIFY, SELECT, READY, HEARTBEAT, DESCRIPTION, SPEAKING, ACK, RESUME, HELLO, RESUMED = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
HEADER_BYTES, NONCE_BYTES = 12, 4


@dataclass(frozen=True)
class VoicePacket:
    """A packet from the bot, decrypted."""

    at: float
    sequence: int
    timestamp: int
    frame: bytes


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: FakeVoice) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str | Any, int]) -> None:
        if len(data) == 74 and data[1] == 1:
            host = str(address[0]).encode().ljust(64, b"\0")
            self._transport.sendto(struct.pack(">HHI64sH", 2, 70, SSRC, host, address[1]), address)
        elif len(data) > HEADER_BYTES + NONCE_BYTES:
            self._server.receive(data)


class FakeVoice:
    """`async with FakeVoice(fake, folder) as voice:`; start the bot with `voice.variables`."""

    def __init__(self, fake: FakeDiscord, folder: Path) -> None:
        self.fake = fake
        self.packets: list[VoicePacket] = []
        self.identifies: list[Json] = []
        self.speaking: list[int] = []
        self.channel_of_bot: dict[int, int | None] = {}  # by server
        self.answers = True  # the main gateway answers when the bot joins
        self._key = os.urandom(32)
        self._socket: web.WebSocketResponse | None = None
        self._certificate = folder / "voice.pem"
        self._port = self._udp_port = 0

    @property
    def variables(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self._certificate)}

    async def __aenter__(self) -> Self:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self._certificate))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        app = web.Application()
        app.add_routes([web.get("/", self._connect)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self._port = self._runner.addresses[0][1]
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=("127.0.0.1", 0))
        self._udp_port = self._udp.get_extra_info("sockname")[1]
        self.fake.voice = self
        return self

    async def __aexit__(self, *error: object) -> None:
        self._udp.close()
        await self._runner.cleanup()

    # The main gateway.

    async def move_bot(self, guild_id: int, channel_id: int | None) -> None:
        """Answer the bot's request to join, to move or to leave."""
        if channel_id is not None and not self.answers:
            return
        self.channel_of_bot[guild_id] = channel_id
        await self._dispatch_state(guild_id, self.fake.bot, channel_id)
        if channel_id is not None:
            server = {"token": "voice-token", "guild_id": str(guild_id), "endpoint": f"127.0.0.1:{self._port}"}
            await self.fake.gateway.dispatch("VOICE_SERVER_UPDATE", server)

    async def join(self, user: User, channel: Channel) -> None:
        assert channel.guild is not None
        await self._dispatch_state(channel.guild.id, user, channel.id)

    async def leave(self, user: User, guild: Guild) -> None:
        await self._dispatch_state(guild.id, user, None)

    async def mute_bot(self, guild: Guild, is_muted: bool) -> None:
        """Mute the bot as a moderator."""
        await self._dispatch_state(guild.id, self.fake.bot, self.channel_of_bot[guild.id], mute=is_muted)

    async def kick_bot(self, guild: Guild) -> None:
        """Disconnect the bot as a moderator."""
        await self.move_bot(guild.id, None)
        if self._socket is not None:
            await self._socket.close(code=4014)

    async def _dispatch_state(self, guild_id: int, user: User, channel_id: int | None, *, mute: bool = False) -> None:
        state: Json = {
            "guild_id": str(guild_id), "channel_id": None if channel_id is None else str(channel_id),
            "user_id": str(user.id), "session_id": f"voice-{snowflake()}", "deaf": False, "mute": mute,
            "self_deaf": False, "self_mute": False, "self_video": False, "suppress": False,
            "request_to_speak_timestamp": None,
            "member": {
                "user": user.json(), "roles": [], "joined_at": iso(0), "deaf": False, "mute": mute, "flags": 0,
            },
        }  # fmt: skip
        guild = next(each for each in self.fake.guilds if each.id == guild_id)
        guild.voice_states = [each for each in guild.voice_states if each["user_id"] != str(user.id)]
        if channel_id is not None:
            guild.voice_states.append(state)
        await self.fake.gateway.dispatch("VOICE_STATE_UPDATE", state)

    # The voice gateway.

    async def _connect(self, request: web.Request) -> web.WebSocketResponse:
        assert request.query["v"] == "8"
        socket = self._socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": HELLO, "d": {"v": 8, "heartbeat_interval": 5000}})
        with suppress(ConnectionError):
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await self._answer(socket, json.loads(message.data))
        return socket

    async def _answer(self, socket: web.WebSocketResponse, packet: Json) -> None:
        data = packet["d"]
        if packet["op"] == IDENTIFY:
            self.identifies.append(data)
            ready = {"ssrc": SSRC, "ip": "127.0.0.1", "port": self._udp_port, "modes": [MODE], "heartbeat_interval": 1}
            await socket.send_json({"op": READY, "d": ready})
        elif packet["op"] == SELECT:
            assert data["data"]["mode"] == MODE
            description = {"mode": MODE, "secret_key": list(self._key), "dave_protocol_version": 0}
            await socket.send_json({"op": DESCRIPTION, "d": description})
        elif packet["op"] == HEARTBEAT:
            await socket.send_json({"op": ACK, "d": {"t": data["t"]}})
        elif packet["op"] == SPEAKING:
            self.speaking.append(data["speaking"])

    async def drop(self, code: int = 4000) -> None:
        """Close the connection to the voice gateway; the bot connects again."""
        assert self._socket is not None
        await self._socket.close(code=code)

    # UDP.

    def receive(self, data: bytes) -> None:
        header, nonce = data[:HEADER_BYTES], data[-NONCE_BYTES:] + bytes(20)
        frame = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            data[HEADER_BYTES:-NONCE_BYTES], header, nonce, self._key
        )
        sequence, timestamp = struct.unpack(">HI", header[2:8])
        self.packets.append(VoicePacket(time.monotonic(), sequence, timestamp, frame))
