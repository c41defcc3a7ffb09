"""Users of the fake Discord; like the app, they can only use the synced commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.fakes.discord.state import (
    EVERYDAY,
    VOICE_MESSAGE,
    Attachment,
    Channel,
    Interaction,
    Json,
    Message,
    Role,
    User,
    iso,
)

if TYPE_CHECKING:
    from tests.fakes.discord.server import FakeDiscord

OPTION_TYPES: dict[int, type | tuple[type, ...]] = {3: str, 4: int, 5: bool, 10: (int, float)}


@dataclass
class Upload:
    filename: str
    data: bytes
    content_type: str = "audio/mpeg"
    stated_bytes: int | None = None  # a false size to state


class Person:
    """A user with the Discord app."""

    def __init__(self, fake: FakeDiscord, name: str, *, permissions: int = EVERYDAY) -> None:
        self.fake = fake
        self.user: User = fake.user(name)
        self.permissions = permissions
        self.roles: list[Role] = []
        self.granted: set[str] = set()  # commands that an administrator has allowed this user

    @property
    def owner(self) -> str:
        return f"discord:{self.user.id}"

    # Commands.

    async def slash(self, channel: Channel, name: str, /, **options: Any) -> Interaction:
        """Run `/name option:value…`; "job list" is a subcommand. Raises for options that the command does not have."""
        kind = 0 if channel.guild is None or channel.guild.bot_is_member else 1
        if kind not in self._command(name.partition(" ")[0]).get("integration_types", [0]):
            raise PermissionError(f"the app does not show {name} in {channel.name}")
        data, resolved = self._data(name, options)
        return await self._send(2, channel, data | ({"resolved": resolved} if resolved else {}))

    async def complete(self, channel: Channel, name: str, focused: str, **options: Any) -> list[Json]:
        """Return the choices for the option `focused`."""
        data, _ = self._data(name, options)
        leaf = data["options"][0]["options"] if " " in name else data["options"]
        next(option for option in leaf if option["name"] == focused)["focused"] = True
        interaction = await self._send(4, channel, data)
        await self.fake.until(lambda: interaction.choices is not None, f"choices for {focused}")
        return interaction.choices or []

    async def menu(self, message: Message, name: str) -> Interaction:
        command = self._command(name, kind=3)
        resolved = {"messages": {str(message.id): message.json()}}
        data = {"id": command["id"], "name": name, "type": 3, "target_id": str(message.id), "resolved": resolved}
        return await self._send(2, message.channel, data)

    async def press(self, message: Message, label: str) -> Interaction:
        button = message.button(label)
        assert not button.get("disabled"), f"{label} cannot be pressed"
        data = {"custom_id": button["custom_id"], "component_type": 2, "id": button["id"]}
        return await self._send(3, message.channel, data, source=message)

    async def fill(self, asked: Interaction, **values: str) -> Interaction:
        """Submit the form with which the bot answered; other fields keep what they show. Raises for invalid values."""
        await self.fake.until(lambda: asked.modal is not None, "a form")
        assert asked.modal is not None
        fields = {label["component"]["custom_id"]: label["component"] for label in asked.modal["components"]}
        if unknown := set(values) - set(fields):
            raise ValueError(f"no fields {unknown} among {list(fields)}")
        labels = [
            {"type": 18, "id": at, "component": _filled(field, values.get(name), at)}
            for at, (name, field) in enumerate(fields.items(), 1)
        ]
        data = {"custom_id": asked.modal["custom_id"], "components": labels}
        return await self._send(5, asked.channel, data, source=asked.source)

    async def post(
        self, channel: Channel, content: str = "", *uploads: Upload, reference: int | None = None
    ) -> Message:
        """Post an ordinary message."""
        attachments = [Attachment(upload.filename, upload.data, upload.content_type) for upload in uploads]
        for attachment in attachments:
            self.fake.host_file(attachment)
        return await self._post(Message(channel, self.user, content, attachments=attachments, reference=reference))

    async def speak(self, channel: Channel, upload: Upload) -> Message:
        """Post a voice message."""
        voice = Attachment(upload.filename, upload.data, upload.content_type, waveform="AAAA")
        self.fake.host_file(voice)
        return await self._post(Message(channel, self.user, attachments=[voice], flags=VOICE_MESSAGE))

    async def forward(self, message: Message, channel: Channel) -> Message:
        """Forward a message."""
        return await self._post(Message(channel, self.user, forwarded=message))

    async def delete(self, *messages: Message) -> None:
        """Delete messages of a channel as their author or a moderator."""
        for message in messages:
            message.deleted = True
        channel = messages[0].channel
        data: Json = {"channel_id": str(channel.id)}
        if channel.guild is not None:
            data["guild_id"] = str(channel.guild.id)
        ids = [str(message.id) for message in messages]
        if len(ids) == 1:
            await self.fake.gateway.dispatch("MESSAGE_DELETE", data | {"id": ids[0]})
        else:
            await self.fake.gateway.dispatch("MESSAGE_DELETE_BULK", data | {"ids": ids})

    async def _post(self, message: Message) -> Message:
        channel = message.channel
        channel.messages[message.id] = message
        data = message.json()
        if channel.guild is not None:
            data |= {"guild_id": str(channel.guild.id), "member": self._member()}
        await self.fake.gateway.dispatch("MESSAGE_CREATE", data)
        return message

    # Payloads.

    def _command(self, name: str, kind: int = 1) -> Json:
        for command in self.fake.commands:
            if command["name"] == name and command.get("type", 1) == kind:
                return command
        raise AssertionError(f"no command {name!r} among {[c['name'] for c in self.fake.commands]}")

    def _data(self, name: str, options: Json) -> tuple[Json, Json]:
        first, _, second = name.partition(" ")
        command = self._command(first)
        needed = command.get("default_member_permissions")
        if needed and int(needed) & ~self.permissions and first not in self.granted:
            raise PermissionError(f"the app does not show {name} to {self.user.name}")
        offered = command["options"]
        if second:
            offered = next(option for option in offered if option["name"] == second)["options"]
        values, resolved = self._options(offered, options)
        if second:
            values = [{"type": 1, "name": second, "options": values}]
        return {"id": command["id"], "name": first, "type": 1, "options": values}, resolved

    def _options(self, offered: list[Json], options: Json) -> tuple[list[Json], Json]:
        by_name = {option["name"]: option for option in offered}
        missing = [option["name"] for option in offered if option.get("required") and option["name"] not in options]
        if missing or set(options) - set(by_name):
            raise ValueError(f"missing {missing}, unknown {set(options) - set(by_name)}")
        values: list[Json] = []
        resolved: Json = {}
        for name, value in options.items():
            option = by_name[name]
            if isinstance(value, Upload):
                assert option["type"] == 11
                attachment = Attachment(value.filename, value.data, value.content_type)
                self.fake.host_file(attachment)
                stated = {} if value.stated_bytes is None else {"size": value.stated_bytes}
                resolved.setdefault("attachments", {})[str(attachment.id)] = attachment.json() | stated
                value = str(attachment.id)
            elif isinstance(value, Channel):
                data = value.json()
                assert option["type"] == 7 and data["type"] in option["channel_types"]
                resolved.setdefault("channels", {})[str(value.id)] = data | {"permissions": str(self.permissions)}
                value = str(value.id)
            elif isinstance(value, Role):
                assert option["type"] == 8
                resolved.setdefault("roles", {})[str(value.id)] = value.json()
                value = str(value.id)
            elif isinstance(value, User):
                assert option["type"] == 6
                resolved.setdefault("users", {})[str(value.id)] = value.json()
                value = str(value.id)
            elif not isinstance(value, OPTION_TYPES[option["type"]]):
                raise ValueError(f"{name} takes another type")
            elif option.get("choices") and value not in [choice["value"] for choice in option["choices"]]:
                raise ValueError(f"{name} has no choice {value!r}")
            values.append({"name": name, "type": option["type"], "value": value})
        return values, resolved

    def _member(self) -> Json:
        return {
            "user": self.user.json(), "roles": [str(role.id) for role in self.roles], "joined_at": iso(0),
            "deaf": False, "mute": False, "flags": 0,
            "permissions": str(self.permissions), "nick": None, "avatar": None,
        }  # fmt: skip

    async def _send(self, kind: int, channel: Channel, data: Json, source: Message | None = None) -> Interaction:
        interaction = Interaction(kind, self.user, channel, data, source=source)
        interaction.id += round(self.fake.clock_ahead_s * 1000) << 22
        self.fake.add_interaction(interaction)
        guild = channel.guild
        payload: Json = {
            "id": str(interaction.id), "application_id": str(self.fake.application_id), "type": kind, "data": data,
            "token": interaction.token, "version": 1, "channel_id": str(channel.id), "locale": "en-US",
            "channel": channel.json() | {"permissions": str(self.permissions)}, "entitlements": [],
            "attachment_size_limit": self.fake.stated_limit_bytes(channel),
            "app_permissions": str(channel.bot_permissions),
        }  # fmt: skip
        if guild is None:
            payload |= {
                "user": self.user.json(),
                "context": 1,
                "authorizing_integration_owners": {"1": str(self.user.id)},
            }
        else:
            owners = {"0": str(guild.id)} if guild.bot_is_member else {"1": str(self.user.id)}
            payload |= {
                "guild_id": str(guild.id), "member": self._member(), "context": 0, "guild_locale": "en-US",
                "authorizing_integration_owners": owners,
                "guild": {"id": str(guild.id), "locale": "en-US", "features": []},
            }  # fmt: skip
        if source is not None:
            payload["message"] = source.json()
        await self.fake.gateway.dispatch("INTERACTION_CREATE", payload)
        return interaction

    async def answered(self, interaction: Interaction, timeout_s: float = 20) -> Message:
        """Return the answer once it has text; if it was deleted, the follow-up that replaces it."""

        def answer() -> Message | None:
            original = interaction.original
            if original is not None and original.deleted:
                return interaction.followups[-1] if interaction.followups else None
            return None if original is None or original.loading else original

        name = interaction.data.get("name") or interaction.data.get("custom_id")
        await self.fake.until(lambda: answer() is not None, f"an answer to {name}", timeout_s)
        message = answer()
        assert message is not None
        return message


def _filled(field: Json, value: str | None, at: int) -> Json:
    """Return a form's field as submitted; several choices are on lines."""
    filled = {"type": field["type"], "id": 100 + at, "custom_id": field["custom_id"]}
    if field["type"] == 3:
        shown = [option["value"] for option in field["options"] if option.get("default")]
        chosen = shown if value is None else value.splitlines()
        is_known = {*chosen} <= {option["value"] for option in field["options"]}
        if not is_known or not field.get("min_values", 1) <= len(chosen) <= field.get("max_values", 1):
            raise ValueError(f"{field['custom_id']} has no option {chosen}")
        return filled | {"values": chosen}
    text = field.get("value") or "" if value is None else value
    if not (1 if field.get("required", True) else 0) <= len(text) <= field.get("max_length", 4000):
        raise ValueError(f"{field['custom_id']} is too short or too long")
    return filled | {"value": text}
