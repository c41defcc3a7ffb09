"""The REST routes: login, commands, interaction responses, webhook and channel messages."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import web

from tests.fakes.discord import payloads
from tests.fakes.discord.commands import check_callback, check_choices, check_commands
from tests.fakes.discord.components import check_modal
from tests.fakes.discord.forms import Form, RequestRejected, bad_form
from tests.fakes.discord.messages import Messages
from tests.fakes.discord.state import (
    ADD_FILES,
    CREATE_THREADS,
    EMBED_LINKS,
    EPHEMERAL,
    HISTORY,
    LOADING,
    MANAGE_MESSAGES,
    SEND,
    SEND_IN_THREADS,
    VIEW,
    Channel,
    Interaction,
    Json,
    Message,
)

if TYPE_CHECKING:
    from tests.fakes.discord.server import FakeDiscord

NONCE_MEMORY_S = 300.0
FOLLOWUPS_OF_USER_APPS = 5


class Rest:
    def __init__(self, fake: FakeDiscord) -> None:
        self.fake = fake
        self.messages = Messages(fake)

    def routes(self, root: str) -> list[web.RouteDef]:
        hook = root + "/webhooks/{app}/{token}"
        channel = root + "/channels/{channel}"
        return [
            web.get(root + "/users/@me", self.me),
            web.post(root + "/users/@me/channels", self.open_dm),
            web.get(root + "/oauth2/applications/@me", self.application),
            web.get(root + "/gateway", self.gateway),
            web.get(root + "/gateway/bot", self.gateway),
            web.put(root + "/applications/{app}/commands", self.sync),
            web.get(root + "/applications/{app}/commands", self.commands),
            web.post(root + "/interactions/{id}/{token}/callback", self.callback),
            web.post(hook, self.followup),
            web.get(hook + "/messages/{message}", self.hook_get),
            web.patch(hook + "/messages/{message}", self.hook_edit),
            web.delete(hook + "/messages/{message}", self.hook_delete),
            web.get(channel, self.channel),
            web.post(channel + "/messages", self.send),
            web.get(channel + "/messages", self.history),
            web.get(channel + "/messages/{message}", self.get),
            web.patch(channel + "/messages/{message}", self.edit),
            web.delete(channel + "/messages/{message}", self.delete),
            web.post(channel + "/messages/{message}/threads", self.create_thread),
            web.patch(root + "/guilds/{guild}/voice-states/@me", self.change_own_voice_state),
        ]

    # Login.

    async def me(self, request: web.Request) -> web.Response:
        return web.json_response(self.fake.bot.json())

    async def application(self, request: web.Request) -> web.Response:
        return web.json_response({
            "id": str(self.fake.application_id), "name": "Stemify", "description": "", "icon": None,
            "bot_public": True, "bot_require_code_grant": False, "verify_key": "0", "flags": 0,
            "owner": self.fake.bot.json(), "rpc_origins": None, "team": None,
        })  # fmt: skip

    async def gateway(self, request: web.Request) -> web.Response:
        limit = {"total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": 1}
        return web.json_response(
            {"url": self.fake.gateway_url, "shards": self.fake.gateway.shards, "session_start_limit": limit}
        )

    async def sync(self, request: web.Request) -> web.Response:
        check_commands(await request.json())
        self.fake.commands = [
            {"description": ""}
            | command
            | {"id": str(100 + at), "application_id": str(self.fake.application_id), "version": "1"}
            for at, command in enumerate(await request.json())
        ]
        self.fake.syncs += 1
        return web.json_response(self.fake.commands)

    async def commands(self, request: web.Request) -> web.Response:
        return web.json_response(self.fake.commands)

    # Interactions.

    def _interaction(self, request: web.Request) -> Interaction:
        token = request.match_info["token"]
        for interaction in reversed(self.fake.interactions):
            if interaction.token == token:
                if not interaction.alive:
                    raise RequestRejected(401, 50027, "Invalid Webhook Token")
                return interaction
        raise RequestRejected(404, 10015, "Unknown Webhook")

    async def callback(self, request: web.Request) -> web.Response:
        payload, files = await payloads.read(request)
        interaction = self._interaction(request)
        if interaction.acked_at is not None:
            raise RequestRejected(400, 40060, "Interaction has already been acknowledged.")
        if time.time() > interaction.sent_at + 3:
            raise RequestRejected(404, 10062, "Unknown interaction")
        kind, data = payload["type"], payload.get("data") or {}
        check_callback(interaction.kind, kind)
        channel, message = interaction.channel, None
        if kind in (4, 5):
            flags = int(data.get("flags") or 0) & EPHEMERAL
            message = Message(channel, self.fake.bot, flags=flags | (LOADING if kind == 5 else 0))
            if kind == 4:
                self.messages.apply(message, data, files, self._limit(interaction))
            interaction.original = message
            self.messages.appear(message)
        elif kind in (6, 7):
            assert interaction.source is not None
            interaction.original = message = interaction.source
            if kind == 7:
                self.messages.change(message, data, files, self._limit(interaction))
        elif kind == 8:
            check_choices(data["choices"])
            interaction.choices = data["choices"]
        elif kind == 9:
            form = Form()
            check_modal(form, data)
            form.done()
            interaction.modal = data
        interaction.acked_at, interaction.ack_type = time.time(), kind
        await self.fake.changed()
        body: Json = {"interaction": {"id": str(interaction.id), "type": interaction.kind}}
        if message is not None:
            body["interaction"]["response_message_id"] = str(message.id)
            body["interaction"]["response_message_ephemeral"] = message.ephemeral
            body["resource"] = {"type": kind, "message": message.json()}
        return web.json_response(body)

    async def followup(self, request: web.Request) -> web.Response:
        payload, files = await payloads.read(request)
        interaction = self._interaction(request)
        if interaction.acked_at is None:
            raise RequestRejected(404, 10015, "Unknown Webhook")
        original = interaction.original
        if original is not None and original.loading and not original.deleted:
            # The first follow-up fills the deferred response.
            self.messages.change(original, payload, files, self._limit(interaction))
            await self.fake.changed()
            return web.json_response(original.json())
        if self._is_foreign(interaction) and len(interaction.followups) >= FOLLOWUPS_OF_USER_APPS:
            raise RequestRejected(400, 40094, "Reached maximum number of follow up messages")
        flags = int(payload.get("flags") or 0) & EPHEMERAL
        message = Message(interaction.channel, self.fake.bot, flags=flags)
        self.messages.apply(message, payload, files, self._limit(interaction))
        interaction.followups.append(message)
        self.messages.appear(message)
        await self.fake.changed()
        return web.json_response(message.json())

    def _is_foreign(self, interaction: Interaction) -> bool:
        """Whether only the user installed the app."""
        guild = interaction.channel.guild
        return guild is not None and not guild.bot_is_member

    def _hook_message(self, request: web.Request) -> tuple[Interaction, Message]:
        interaction = self._interaction(request)
        wanted = request.match_info["message"]
        mine = [m for m in [interaction.original, *interaction.followups] if m is not None and not m.deleted]
        for message in mine:
            if wanted == str(message.id) or (wanted == "@original" and message is interaction.original):
                return interaction, message
        raise RequestRejected(404, 10008, "Unknown Message")

    async def hook_get(self, request: web.Request) -> web.Response:
        return web.json_response(self._hook_message(request)[1].json())

    async def hook_edit(self, request: web.Request) -> web.Response:
        payload, files = await payloads.read(request)
        interaction, message = self._hook_message(request)
        self.messages.change(message, payload, files, self._limit(interaction))
        await self.fake.changed()
        return web.json_response(message.json())

    async def hook_delete(self, request: web.Request) -> web.Response:
        self._hook_message(request)[1].deleted = True
        await self.fake.changed()
        return web.Response(status=204)

    # Channels.

    def _channel(self, request: web.Request, needed: int = VIEW) -> Channel:
        channel = self.fake.channels.get(int(request.match_info["channel"]))
        if channel is None:
            raise RequestRejected(404, 10003, "Unknown Channel")
        absent = channel.guild is not None and not channel.guild.bot_is_member
        if absent or not channel.bot_permissions & VIEW:
            raise RequestRejected(403, 50001, "Missing Access")
        if needed & ~channel.bot_permissions:
            raise RequestRejected(403, 50013, "Missing Permissions")
        return channel

    async def channel(self, request: web.Request) -> web.Response:
        return web.json_response(self._channel(request).json())

    async def open_dm(self, request: web.Request) -> web.Response:
        user = self.fake.users[int((await request.json())["recipient_id"])]
        return web.json_response(self.fake.dm_of(user).json())

    async def send(self, request: web.Request) -> web.Response:
        payload, files = await payloads.read(request)
        channel = self._channel(request)
        send = SEND_IN_THREADS if channel.parent is not None else SEND
        self._channel(request, send | (ADD_FILES if files else 0))
        if payload.get("embeds") and not channel.bot_permissions & EMBED_LINKS:
            payload["embeds"] = []
            self.fake.violations.append("embeds were sent without EMBED_LINKS, so Discord drops them")
        if channel.recipient is not None and not channel.recipient.accepts_dms:
            raise RequestRejected(403, 50007, "Cannot send messages to this user")
        if channel.archived:
            raise RequestRejected(400, 50083, "Thread is archived")
        nonce = payload.get("nonce")
        if nonce is not None and len(str(nonce)) > 25:
            raise bad_form("nonce", "Must be 25 or fewer in length.")
        if nonce is not None and payload.get("enforce_nonce"):
            for message in channel.messages.values():
                if message.nonce == nonce and message.created_at > time.time() - NONCE_MEMORY_S:
                    return web.json_response(message.json())
        message = Message(channel, self.fake.bot, nonce=None if nonce is None else str(nonce))
        if reference := payload.get("message_reference"):
            if channel.guild is not None and not channel.bot_permissions & HISTORY:
                raise RequestRejected(403, 160002, "Cannot reply without permission to read message history")
            target = channel.messages.get(int(reference["message_id"]))
            if target is None or target.deleted:
                if reference.get("fail_if_not_exists", True):
                    raise bad_form("message_reference", "Unknown message")
            else:
                message.reference = target.id
        self.messages.apply(message, payload, files, channel.upload_limit_bytes or channel.server_limit_bytes)
        self.messages.appear(message)
        await self.fake.changed()
        return web.json_response(message.json() | {"nonce": message.nonce})

    async def history(self, request: web.Request) -> web.Response:
        channel = self._channel(request, HISTORY)
        found = channel.visible()
        limit = int(request.query.get("limit", "50"))
        if after := request.query.get("after"):
            found = [m for m in found if m.id > int(after)][:limit]
        elif before := request.query.get("before"):
            found = [m for m in found if m.id < int(before)]
        if not 1 <= limit <= 100:
            raise bad_form("limit", f"int value should be between 1 and 100, not {limit}.")
        return web.json_response([m.json() for m in reversed(found[-limit:])])

    def _message(self, request: web.Request, needed: int = VIEW) -> Message:
        channel = self._channel(request, needed)
        message = channel.messages.get(int(request.match_info["message"]))
        if message is None or message.deleted or message.ephemeral:
            raise RequestRejected(404, 10008, "Unknown Message")
        return message

    async def get(self, request: web.Request) -> web.Response:
        return web.json_response(self._message(request, HISTORY).json())

    async def change_own_voice_state(self, request: web.Request) -> web.Response:
        payload, _ = await payloads.read(request)
        assert self.fake.voice is not None
        await self.fake.voice.change_own_state(payload)
        return web.Response(status=204)

    async def edit(self, request: web.Request) -> web.Response:
        payload, files = await payloads.read(request)
        message = self._message(request)
        if message.author is not self.fake.bot:
            raise RequestRejected(403, 50005, "Cannot edit a message authored by another user")
        if message.channel.archived:
            raise RequestRejected(400, 50083, "Thread is archived")
        channel = message.channel
        self.messages.change(message, payload, files, channel.upload_limit_bytes or channel.server_limit_bytes)
        await self.fake.changed()
        return web.json_response(message.json())

    async def delete(self, request: web.Request) -> web.Response:
        message = self._message(request)
        if message.author is not self.fake.bot and not message.channel.bot_permissions & MANAGE_MESSAGES:
            raise RequestRejected(403, 50013, "Missing Permissions")
        message.deleted = True
        await self.fake.changed()
        return web.Response(status=204)

    async def create_thread(self, request: web.Request) -> web.Response:
        message, payload = self._message(request, CREATE_THREADS), await request.json()
        if not 1 <= len(payload["name"]) <= 100:
            raise bad_form("name", "Must be between 1 and 100 in length.")
        if message.channel.guild is None or message.channel.parent is not None or message.channel.kind not in (0, 5):
            raise RequestRejected(400, 50024, "Cannot execute action on this channel type")
        if message.id in self.fake.channels:
            raise RequestRejected(400, 160004, "A thread has already been created for this message")
        thread = self.fake.thread(message.channel, payload["name"])
        del self.fake.channels[thread.id]
        thread.id, thread.bot_permissions = message.id, message.channel.bot_permissions
        self.fake.channels[thread.id] = thread
        return web.json_response(thread.json())

    def _limit(self, interaction: Interaction) -> int:
        return interaction.channel.upload_limit_bytes or self.fake.stated_limit_bytes(interaction.channel)
