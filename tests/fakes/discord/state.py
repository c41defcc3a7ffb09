"""Users, servers, channels, messages and interactions, and their JSON."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

DISCORD_EPOCH_MS = 1420070400000
MIB = 1024 * 1024
UPLOAD_LIMITS_BYTES = {0: 10 * MIB, 1: 10 * MIB, 2: 50 * MIB, 3: 100 * MIB}
"""By the server's boost tier."""

ADD_FILES = 1 << 15
VIEW = 1 << 10
SEND = 1 << 11
MANAGE_MESSAGES = 1 << 13
HISTORY = 1 << 16
MANAGE_GUILD = 1 << 5
EMBED_LINKS = 1 << 14
SEND_IN_THREADS = 1 << 38
CREATE_THREADS = 1 << 35
EVERYDAY = VIEW | SEND | SEND_IN_THREADS | CREATE_THREADS | HISTORY | ADD_FILES
"""The permissions that docs/discord.md lists."""
CONNECT = 1 << 20
SPEAK = 1 << 21
VOICE = CONNECT | SPEAK
EPHEMERAL = 1 << 6
LOADING = 1 << 7
VOICE_MESSAGE = 1 << 13
COMPONENTS_V2 = 1 << 15

_counter = itertools.count()


def snowflake() -> int:
    return (int(time.time() * 1000) - DISCORD_EPOCH_MS) << 22 | (next(_counter) & 0x3FFFFF)


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).isoformat()


# No `repr`: these classes refer to each other, and a text of one would hold all of them, files included.
@dataclass(eq=False, repr=False)
class User:
    name: str
    id: int = field(default_factory=snowflake)
    bot: bool = False
    accepts_dms: bool = True

    def json(self) -> Json:
        return {
            "id": str(self.id), "username": self.name, "discriminator": "0", "global_name": self.name,
            "avatar": None, "bot": self.bot,
        }  # fmt: skip


@dataclass(eq=False, repr=False)
class Role:
    name: str
    id: int = field(default_factory=snowflake)

    def json(self) -> Json:
        return {
            "id": str(self.id), "name": self.name, "permissions": "0", "position": 1, "color": 0, "flags": 0,
            "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
            "hoist": False, "managed": False, "mentionable": False,
        }  # fmt: skip


@dataclass(eq=False, repr=False)
class Guild:
    name: str
    premium_tier: int = 0
    bot_is_member: bool = True
    id: int = field(default_factory=snowflake)
    channels: list[Channel] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)
    system_channel: Channel | None = None
    joined_at: float = field(default_factory=time.time)  # by the bot
    voice_states: list[Json] = field(default_factory=list)

    def json(self) -> Json:
        return {
            "id": str(self.id), "name": self.name, "owner_id": "1", "premium_tier": self.premium_tier,
            "member_count": 3, "large": False, "unavailable": False, "features": [], "emojis": [], "stickers": [],
            "preferred_locale": "en-US", "verification_level": 0, "default_message_notifications": 0,
            "explicit_content_filter": 0, "mfa_level": 0, "nsfw_level": 0, "system_channel_flags": 0,
            "joined_at": iso(self.joined_at), "voice_states": self.voice_states, "members": [],
            "threads": [], "presences": [], "stage_instances": [], "guild_scheduled_events": [], "afk_timeout": 0,
            "roles": [{
                "id": str(self.id), "name": "@everyone", "permissions": str(EVERYDAY | VOICE), "position": 0,
                "color": 0, "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None}, "flags": 0,
                "hoist": False, "managed": False, "mentionable": False,
            }, *(role.json() for role in self.roles)],
            "system_channel_id": None if self.system_channel is None else str(self.system_channel.id),
            "channels": [channel.json() for channel in self.channels],
        }  # fmt: skip


@dataclass(eq=False, repr=False)
class Channel:
    name: str
    guild: Guild | None = None  # None: a direct message channel
    recipient: User | None = None
    bot_permissions: int = EVERYDAY
    archived: bool = False
    parent: Channel | None = None  # of a thread
    kind: int = 0  # 0 text, 2 voice, 5 announcement, 13 stage, 15 forum
    voice_permissions: int = VOICE
    user_limit: int = 0  # of a voice channel
    upload_limit_bytes: int | None = None  # the real limit, if it differs from the server's
    user_limit_bytes: int | None = None  # stated in interactions of users with a subscription
    id: int = field(default_factory=snowflake)
    messages: dict[int, Message] = field(default_factory=dict)

    @property
    def stated_limit_bytes(self) -> int:
        return self.user_limit_bytes or self.server_limit_bytes

    @property
    def server_limit_bytes(self) -> int:
        return UPLOAD_LIMITS_BYTES[self.guild.premium_tier if self.guild else 0]

    def json(self) -> Json:
        base: Json = {"id": str(self.id), "last_message_id": None}
        if self.guild is None:
            assert self.recipient is not None
            return base | {"type": 1, "recipients": [self.recipient.json()]}
        if self.parent is not None:
            return base | {
                "type": 11, "guild_id": str(self.guild.id), "name": self.name, "parent_id": str(self.parent.id),
                "owner_id": "1", "message_count": 0, "member_count": 1, "rate_limit_per_user": 0, "flags": 0,
                "thread_metadata": {
                    "archived": self.archived, "auto_archive_duration": 1440, "archive_timestamp": iso(0),
                    "locked": False,
                },
            }  # fmt: skip
        voice = {"bitrate": 64000, "user_limit": self.user_limit, "rtc_region": None}
        denied = (EVERYDAY | VOICE) & ~(self.bot_permissions | self.voice_permissions)
        return base | {
            "type": self.kind, "guild_id": str(self.guild.id), "name": self.name, "position": 0, "topic": None,
            "permission_overwrites": [{"id": str(self.guild.id), "type": 0, "allow": "0", "deny": str(denied)}],
            "nsfw": False, "parent_id": None, "rate_limit_per_user": 0,
        } | (voice if self.kind in (2, 13) else {})  # fmt: skip

    def visible(self) -> list[Message]:
        """Return the public messages, oldest first."""
        return [m for m in self.messages.values() if not m.ephemeral and not m.deleted]


@dataclass(eq=False, repr=False)
class Attachment:
    filename: str
    data: bytes
    content_type: str
    url: str = ""
    waveform: str | None = None  # of a voice message
    description: str | None = None  # alternative text
    id: int = field(default_factory=snowflake)

    def json(self) -> Json:
        voice = {} if self.waveform is None else {"waveform": self.waveform, "duration_secs": 1.0}
        text = {} if self.description is None else {"description": self.description}
        return text | {
            "id": str(self.id), "filename": self.filename, "size": len(self.data), "url": self.url,
            "proxy_url": self.url, "content_type": self.content_type,
        } | voice  # fmt: skip


@dataclass(eq=False, repr=False)
class Message:
    channel: Channel
    author: User
    content: str = ""
    components: list[Json] = field(default_factory=list)
    embeds: list[Json] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    flags: int = 0
    nonce: str | None = None
    reference: int | None = None
    forwarded: Message | None = None
    allowed_mentions: Json = field(default_factory=dict)
    deleted: bool = False
    edits: int = 0
    pinged: list[int] = field(default_factory=list)  # users that it notified
    versions: list[tuple[float, str]] = field(default_factory=list)  # when, and the text, oldest first
    id: int = field(default_factory=snowflake)
    created_at: float = field(default_factory=time.time)

    @property
    def ephemeral(self) -> bool:
        return bool(self.flags & EPHEMERAL)

    @property
    def loading(self) -> bool:
        return bool(self.flags & LOADING)

    def parts(self) -> Iterator[Json]:
        """Yield every component, depth first."""
        waiting = list(self.components)
        while waiting:
            part = waiting.pop(0)
            yield part
            waiting = [*part.get("components", []), *([part["accessory"]] if "accessory" in part else []), *waiting]

    @property
    def text(self) -> str:
        """The visible text, without buttons."""
        lines = [self.content] if self.content else []
        lines += [part["content"] for part in self.parts() if part["type"] == 10]
        lines += [str(embed.get(key)) for embed in self.embeds for key in ("title", "description") if embed.get(key)]
        return "\n".join(lines)

    def buttons(self) -> list[Json]:
        return [part for part in self.parts() if part["type"] == 2]

    def button(self, label: str) -> Json:
        for button in self.buttons():
            if button.get("label", "").casefold().startswith(label.casefold()):
                return button
        raise AssertionError(f"no button {label!r} on: {self.text}\n{[b.get('label') for b in self.buttons()]}")

    def mentioned(self) -> list[int]:
        """Return the users that a new message with this text notifies."""
        allowed = self.allowed_mentions
        named = [int(found) for found in re.findall(r"<@!?(\d+)>", self.text)]
        if not allowed:
            return [*named, *([0] if re.search("@everyone|@here", self.text) else [])]
        users = {int(user) for user in allowed.get("users", [])}
        all_users = "users" in allowed.get("parse", [])
        found = [user for user in named if all_users or user in users]
        return [*found, *([0] if "everyone" in allowed.get("parse", []) and "@everyone" in self.text else [])]

    def json(self) -> Json:
        out: Json = {
            "id": str(self.id), "channel_id": str(self.channel.id), "author": self.author.json(),
            "content": self.content, "timestamp": iso(self.created_at), "edited_timestamp": None, "tts": False,
            "mention_everyone": False, "mentions": [], "mention_roles": [], "pinned": False, "type": 0,
            "attachments": [attachment.json() for attachment in self.attachments], "embeds": self.embeds,
            "components": self.components, "flags": self.flags,
        }  # fmt: skip
        if self.reference is not None:
            out["type"] = 19
            out["message_reference"] = {"message_id": str(self.reference), "channel_id": str(self.channel.id)}
        if self.forwarded is not None:
            source = self.forwarded
            kept = ("type", "content", "embeds", "attachments", "timestamp", "edited_timestamp", "flags", "components")
            whole = source.json()
            out["message_reference"] = {
                "type": 1, "message_id": str(source.id), "channel_id": str(source.channel.id),
            }  # fmt: skip
            out["message_snapshots"] = [{"message": {name: whole[name] for name in kept}}]
        return out


@dataclass(eq=False, repr=False)
class Interaction:
    """An interaction and the bot's response."""

    kind: int  # 2 command, 3 component, 4 autocomplete, 5 form
    user: User
    channel: Channel
    data: Json
    sent_at: float = field(default_factory=time.time)
    expires_at: float = field(default_factory=lambda: time.time() + 900)
    acked_at: float | None = None
    ack_type: int | None = None
    source: Message | None = None  # the message with the button
    original: Message | None = None
    followups: list[Message] = field(default_factory=list)
    choices: list[Json] | None = None
    modal: Json | None = None
    id: int = field(default_factory=snowflake)

    @property
    def token(self) -> str:
        return f"interaction-token-{self.id}"

    @property
    def alive(self) -> bool:
        return time.time() < self.expires_at

    @property
    def ack_s(self) -> float:
        assert self.acked_at is not None, "never acknowledged"
        return self.acked_at - self.sent_at

    @property
    def answer(self) -> Message:
        assert self.original is not None, "there is no answer"
        return self.original
