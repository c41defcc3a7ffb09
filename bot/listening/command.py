"""`/listen`: what the bot does with songs that are posted in a channel."""

from __future__ import annotations

from typing import Literal

import discord
from discord import app_commands
from discord.app_commands import AppCommandChannel, AppCommandThread

from bot.client import Stemify
from bot.messages.messenger import retry_on_disconnect
from bot.messages.responses import acknowledge
from bot.rules.operator import check_server
from engine.errors import NotAllowed, NotFound

OFF = "off"
MODES = {
    "button": "I will reply to songs in {place} with a button that splits them into stems.",
    "auto": "I will automatically split songs in {place} into stems.",
    OFF: "I will ignore songs in {place}.",
}
WHAT_COUNTS = (
    "\nSongs are audio files of at least 20 seconds. For videos and voice messages, right-click the message → Apps →"
    " Stemify."
)
NO_INTENT = (
    "\n**But I cannot see attachments yet:** the Message Content Intent is off. Ask the bot's operator to turn it on in"
    " the Discord developer portal (Bot → Privileged Gateway Intents) and to restart the bot. Until then, use"
    " `/stemify`, or right-click a message → Apps → Stemify."
)
NOWHERE = "I ignore songs everywhere in this server. `/listen mode:button` changes that for a channel."
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


@app_commands.command(name="listen", description="Choose what the bot does with songs that are posted in a channel")
@app_commands.describe(
    mode="button: offer to split them; auto: split them at once; off: ignore them; list: show where it is on",
    channel="A text, announcement, voice or forum channel, or a thread (default: this one)",
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
        raise NotFound("This command only works in a channel of a server.")
    check_server(bot.settings.discord, guild_id)
    if mode == "list":
        text = _list(await bot.database.listening.modes(guild_id))
    else:
        place = "this channel" if channel_id == interaction.channel_id else f"<#{channel_id}>"
        text = MODES[mode].format(place=place)
        if mode != OFF:
            text += WHAT_COUNTS + _missing_permissions(interaction, channel_id, place)
            text += "" if bot.sees_attachments else NO_INTENT
        await bot.database.listening.set_mode(channel_id, guild_id, mode)
        bot.listening = await bot.database.listening.modes()
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=text))


def _list(modes: dict[int, str]) -> str:
    if not set(modes.values()) - {OFF}:
        return NOWHERE
    lines = [f"- <#{channel_id}> · {mode}" for channel_id, mode in modes.items()]
    more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return "\n".join([*lines[:MAX_LINES], *more])


def _missing_permissions(interaction: discord.Interaction[Stemify], channel_id: int, place: str) -> str:
    """Return a line that names missing permissions, or nothing. Raises `NotAllowed` if the bot cannot write there."""
    allowed, is_threaded = _permissions(interaction, channel_id)
    if allowed is None:
        return ""
    may_send = allowed.send_messages_in_threads if is_threaded else allowed.send_messages
    needed = {
        "View Channel": allowed.view_channel,
        "Send Messages in Threads" if is_threaded else "Send Messages": may_send,
        "Read Message History": allowed.read_message_history,
        "Attach Files": allowed.attach_files,
    }
    missing = [name for name, is_allowed in needed.items() if not is_allowed]
    if not allowed.view_channel or not may_send:
        raise NotAllowed(f"I cannot write in {place}. Give me these permissions there first: {', '.join(missing)}.")
    return f"\nI'm missing these permissions here: {', '.join(missing)}." if missing else ""


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
