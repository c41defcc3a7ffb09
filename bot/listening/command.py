"""`/listen`: what the bot does with songs that are posted in a channel."""

from __future__ import annotations

from typing import Literal

import discord
from discord import app_commands
from discord.app_commands import AppCommandChannel, AppCommandThread

from bot.client import Stemify
from bot.listening import text
from bot.messages.messenger import retry_on_disconnect
from bot.messages.responses import acknowledge
from bot.rules.operator import check_server
from engine.errors import NotAllowed, NotFound

OFF = "off"
MAX_LINES = 40  # fit into a message

Place = AppCommandChannel | AppCommandThread


class PlaceTransformer(app_commands.Transformer):
    """Accepts every kind of channel in which songs are posted."""

    @property
    def type(self) -> discord.AppCommandOptionType:
        return discord.AppCommandOptionType.channel

    @property
    def channel_types(self) -> list[discord.ChannelType]:
        kinds = discord.ChannelType
        return [
            kinds.text, kinds.news, kinds.voice, kinds.stage_voice, kinds.forum, kinds.media,
            kinds.public_thread, kinds.private_thread, kinds.news_thread,
        ]  # fmt: skip

    async def transform(self, _interaction: discord.Interaction[Stemify], value: Place, /) -> Place:  # type: ignore[override]
        return value


@app_commands.command(name="listen", description=text.DESCRIPTION)
@app_commands.describe(
    mode=text.MODE,
    channel=text.CHANNEL,
)
@app_commands.default_permissions(manage_guild=True)
@app_commands.allowed_installs(guilds=True, users=False)
@app_commands.allowed_contexts(guilds=True, dms=False, private_channels=False)
async def listen_command(
    interaction: discord.Interaction[Stemify],
    mode: Literal["button", "auto", "off", "list"],
    channel: app_commands.Transform[Place, PlaceTransformer] | None = None,
) -> None:
    await acknowledge(interaction, ephemeral=True)
    bot, guild_id = interaction.client, interaction.guild_id
    channel_id = interaction.channel_id if channel is None else channel.id
    if channel_id is None or guild_id is None:
        raise NotFound(text.ONLY_IN_CHANNELS)
    check_server(bot.settings.discord, guild_id)
    if mode == "list":
        answer = _list(await bot.database.listening.modes(guild_id))
    else:
        place = text.THIS_CHANNEL if channel_id == interaction.channel_id else f"<#{channel_id}>"
        lines = [text.mode_set(mode, place)]
        if mode != OFF:
            lines += [text.WHAT_COUNTS, *_missing_permissions(interaction, channel_id, place)]
            lines += [] if bot.sees_attachments else [text.NO_INTENT]
        answer = "\n".join(lines)
        await bot.database.listening.set_mode(channel_id, guild_id, mode)
        bot.listening = await bot.database.listening.modes()
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer))


def _list(modes: dict[int, str]) -> str:
    if not set(modes.values()) - {OFF}:
        return text.NOWHERE
    lines = [text.channel_line(channel_id, mode) for channel_id, mode in modes.items()]
    more = [text.more_channels(len(lines) - MAX_LINES)] if len(lines) > MAX_LINES else []
    return "\n".join([*lines[:MAX_LINES], *more])


def _missing_permissions(interaction: discord.Interaction[Stemify], channel_id: int, place: str) -> list[str]:
    """Return a line that names missing permissions, or nothing. Raises `NotAllowed` if the bot cannot write there."""
    allowed, is_threaded = _permissions(interaction, channel_id)
    if allowed is None:
        return []
    may_send = allowed.send_messages_in_threads if is_threaded else allowed.send_messages
    needed = {
        text.VIEW_CHANNEL: allowed.view_channel,
        text.SEND_IN_THREADS if is_threaded else text.SEND_MESSAGES: may_send,
        text.READ_HISTORY: allowed.read_message_history,
        text.ATTACH_FILES: allowed.attach_files,
    }
    missing = [name for name, is_allowed in needed.items() if not is_allowed]
    if not allowed.view_channel or not may_send:
        raise NotAllowed(text.cannot_write(place, missing))
    return [text.missing_permissions(missing)] if missing else []


def _permissions(interaction: discord.Interaction[Stemify], channel_id: int) -> tuple[discord.Permissions | None, bool]:
    """Return the bot's permissions in a channel, if they are known, and whether messages there are in threads."""
    guild = interaction.guild
    channel = guild.get_channel_or_thread(channel_id) if guild is not None else None
    is_threaded = isinstance(channel, discord.Thread | discord.ForumChannel)
    if channel_id == interaction.channel_id:
        return interaction.app_permissions, is_threaded or isinstance(interaction.channel, discord.Thread)
    if guild is None or channel is None or guild.me is None:
        return None, is_threaded
    return channel.permissions_for(guild.me), is_threaded
