"""A voice server: voice gateway version 8 over TLS, UDP with `aead_xchacha20_poly1305_rtpsize`.

It belongs to one bot. Others in its channels are voice states only, except for the listener if there is one: then the
sound is encrypted end to end (`tests.fakes.discord.dave`), otherwise not, as on a stage.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import nacl.bindings
import trustme
from aiohttp import WSMsgType, web

from tests.fakes.discord import dave
from tests.fakes.discord.state import Channel, Guild, Json, User, iso, snowflake

if TYPE_CHECKING:
    from tests.fakes.discord.server import FakeDiscord

MODE = "aead_xchacha20_poly1305_rtpsize"
SSRC = 77
IDENTIFY, SELECT, READY, HEARTBEAT, DESCRIPTION, SPEAKING, ACK, RESUME, HELLO, RESUMED = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
STAGE = 13  # a kind of channel
CLIENTS_CONNECT, EXECUTE_TRANSITION, TRANSITION_READY = 11, 22, 23
HEADER_BYTES, NONCE_BYTES = 12, 4
SO_TIMESTAMPNS = 35  # of Linux; the module socket does not name it


@dataclass(frozen=True)
class VoicePacket:
    """A packet from the bot, decrypted."""

    at_s: float
    """When the kernel received it, so the time does not depend on how busy this process is."""
    sequence: int
    timestamp: int
    frame: bytes
    is_private: bool  # it was encrypted end to end


class FakeVoice:
    """`async with FakeVoice(fake, folder) as voice:`; start the bot with `voice.variables`."""

    def __init__(self, fake: FakeDiscord, folder: Path) -> None:
        self.fake = fake
        self.packets: list[VoicePacket] = []
        self.identifies: list[Json] = []
        self.speaking: list[int] = []
        self.channel_of_bot: dict[int, int | None] = {}  # by server
        self.requests_to_leave = self.requests_to_speak = 0
        self.answers = True  # the main gateway answers when the bot joins
        self.listener: User | None = None
        self._group: dave.DaveGroup | None = None
        self._messages = 0  # sent in binary
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
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setblocking(False)
        self._udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._udp.bind(("127.0.0.1", 0))
        asyncio.get_running_loop().add_reader(self._udp, self._read_datagrams)
        self._udp_port = self._udp.getsockname()[1]
        self.fake.voice = self
        return self

    async def __aexit__(self, *error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._udp)
        self._udp.close()
        await self._runner.cleanup()

    # The main gateway.

    async def move_bot(self, guild_id: int, channel_id: int | None) -> None:
        """Answer the bot's request to join, to move or to leave."""
        if channel_id is not None and not self.answers:
            return
        self.requests_to_leave += channel_id is None
        self.channel_of_bot[guild_id] = channel_id
        is_audience = any(each.id == channel_id and each.kind == STAGE for each in self.fake.channels.values())
        await self._dispatch_state(guild_id, self.fake.bot, channel_id, suppress=is_audience)
        if channel_id is not None:
            await self.change_server(guild_id)

    async def change_server(self, guild_id: int) -> None:
        """Tell the bot to use a voice server, as after joining or when the region of the channel changes."""
        server = {"token": "voice-token", "guild_id": str(guild_id), "endpoint": f"127.0.0.1:{self._port}"}
        await self.fake.gateway.dispatch("VOICE_SERVER_UPDATE", server)

    async def change_own_state(self, payload: Json) -> None:
        """Answer the bot on a stage."""
        if payload.get("request_to_speak_timestamp"):
            self.requests_to_speak += 1

    async def invite_bot(self, guild: Guild) -> None:
        """Let the bot speak on a stage, as a moderator."""
        await self._dispatch_state(guild.id, self.fake.bot, self.channel_of_bot[guild.id])

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

    async def _dispatch_state(
        self, guild_id: int, user: User, channel_id: int | None, *, mute: bool = False, suppress: bool = False
    ) -> None:
        state: Json = {
            "guild_id": str(guild_id), "channel_id": None if channel_id is None else str(channel_id),
            "user_id": str(user.id), "session_id": f"voice-{snowflake()}", "deaf": False, "mute": mute,
            "self_deaf": False, "self_mute": False, "self_video": False, "suppress": suppress,
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
                elif message.type is WSMsgType.BINARY:
                    await self._answer_binary(socket, message.data[0], message.data[1:])
        return socket

    async def _answer(self, socket: web.WebSocketResponse, packet: Json) -> None:
        data = packet["d"]
        if packet["op"] == IDENTIFY:
            self.identifies.append(data)
            ready = {"ssrc": SSRC, "ip": "127.0.0.1", "port": self._udp_port, "modes": [MODE], "heartbeat_interval": 1}
            await socket.send_json({"op": READY, "d": ready})
        elif packet["op"] == SELECT:
            assert data["data"]["mode"] == MODE
            version = 0 if self.listener is None else dave.VERSION
            description = {"mode": MODE, "secret_key": list(self._key), "dave_protocol_version": version}
            await socket.send_json({"op": DESCRIPTION, "d": description})
        elif packet["op"] == RESUME:
            await socket.send_json({"op": RESUMED, "d": None})
        elif packet["op"] == HEARTBEAT:
            await socket.send_json({"op": ACK, "d": {"t": data["t"]}})
        elif packet["op"] == SPEAKING:
            self.speaking.append(data["speaking"])
        elif packet["op"] == TRANSITION_READY:
            await socket.send_json({"op": EXECUTE_TRANSITION, "d": data})

    async def _answer_binary(self, socket: web.WebSocketResponse, op: int, body: bytes) -> None:
        if op == dave.KEY_PACKAGE:
            assert self.listener is not None
            channel_id = self.channel_of_bot[int(self.identifies[-1]["server_id"])]
            assert channel_id is not None
            group = dave.DaveGroup(bot_id=self.fake.bot.id, listener_id=self.listener.id, channel_id=channel_id)
            self._group = group
            await self._send_binary(socket, dave.EXTERNAL_SENDER, group.external_sender)
            await socket.send_json({"op": CLIENTS_CONNECT, "d": {"user_ids": [str(self.listener.id)]}})
            await self._send_binary(socket, dave.PROPOSALS, group.proposals)
        elif op == dave.COMMIT_WELCOME:
            assert self._group is not None
            commit = self._group.commit(body)
            await self._send_binary(socket, dave.ANNOUNCE_COMMIT, struct.pack(">H", dave.TRANSITION_ID) + commit)

    async def _send_binary(self, socket: web.WebSocketResponse, op: int, body: bytes) -> None:
        self._messages += 1
        await socket.send_bytes(struct.pack(">HB", self._messages, op) + body)

    async def drop(self, code: int = 4000) -> None:
        """Close the connection to the voice gateway; the bot connects again."""
        assert self._socket is not None
        await self._socket.close(code=code)

    # UDP.

    def _read_datagrams(self) -> None:
        with suppress(BlockingIOError):
            while True:
                data, ((_, _, time_of_arrival),), _, address = self._udp.recvmsg(2048, socket.CMSG_SPACE(16))
                if len(data) == 74 and data[1] == 1:
                    host = str(address[0]).encode().ljust(64, b"\0")
                    self._udp.sendto(struct.pack(">HHI64sH", 2, 70, SSRC, host, address[1]), address)
                elif len(data) > HEADER_BYTES + NONCE_BYTES:
                    seconds, nanoseconds = struct.unpack("qq", time_of_arrival)
                    self._receive(data, at_s=seconds + nanoseconds / 1e9)

    def _receive(self, data: bytes, *, at_s: float) -> None:
        header, nonce = data[:HEADER_BYTES], data[-NONCE_BYTES:] + bytes(20)
        frame = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            data[HEADER_BYTES:-NONCE_BYTES], header, nonce, self._key
        )
        is_private = self._group is not None and frame.endswith(dave.MARKER)
        if self._group is not None and is_private:
            frame = self._group.decrypt(frame)
        sequence, timestamp = struct.unpack(">HI", header[2:8])
        self.packets.append(VoicePacket(at_s, sequence, timestamp, frame, is_private))
