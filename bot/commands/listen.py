"""`/listen`: split audio that is attached in a channel."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any, Literal, Self

import discord
from discord import app_commands

from bot.batches.submission import submit_batch
from bot.cards import error_text
from bot.client import Stemify
from bot.commands.stemify import job_message_of
from bot.database import JobMessage
from bot.messages import FailureKind, classify_failure, retry_on_disconnect, send
from bot.responses import acknowledge, mark_answered, run_guarded
from bot.servers import check_server, is_allowed
from bot.songs import audio_attachments, source_of
from bot.submission import submit
from bot.text import clean
from engine.errors import NotAllowed, NotFound, StemifyError
from engine.jobs.entity import new_job_id

log = logging.getLogger(__name__)

MODES = {
    "button": "I will reply to audio in this channel with a button that splits it into stems.",
    "auto": "I will automatically split audio in this channel into stems.",
    "off": "I will ignore audio in this channel.",
}
NO_INTENT = (
    "\n**But I cannot see attachments yet:** the Message Content Intent is off. Ask the bot's operator to turn it on in"
    " the Discord developer portal (Bot → Privileged Gateway Intents) and to restart the bot. Until then, use"
    " `/stemify`, or right-click a message → Apps → Stemify."
)


@app_commands.command(name="listen", description="Choose what the bot does with audio in this channel")
@app_commands.describe(mode="button: offer to split it; auto: split it at once; off: ignore it")
@app_commands.default_permissions(manage_guild=True)
@app_commands.checks.has_permissions(manage_guild=True)
@app_commands.allowed_installs(guilds=True, users=False)
@app_commands.allowed_contexts(guilds=True, dms=False, private_channels=False)
async def listen_command(interaction: discord.Interaction[Stemify], mode: Literal["button", "auto", "off"]) -> None:
    await acknowledge(interaction, ephemeral=True)
    bot = interaction.client
    if interaction.channel_id is None or interaction.guild_id is None:
        raise NotFound("This command only works in a channel of a server.")
    check_server(bot.settings.discord, interaction.guild_id)
    await bot.database.set_listening(interaction.channel_id, interaction.guild_id, mode)
    bot.listening = await bot.database.listening()
    text = MODES[mode]
    if mode != "off":
        text += _missing_permissions(interaction)
        if not bot.sees_attachments:
            text += NO_INTENT
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=text))


def _missing_permissions(interaction: discord.Interaction[Stemify]) -> str:
    allowed = interaction.app_permissions
    needed = {
        "View Channel": allowed.view_channel,
        "Send Messages": allowed.send_messages or allowed.send_messages_in_threads,
        "Read Message History": allowed.read_message_history,
        "Attach Files": allowed.attach_files,
    }
    missing = [name for name, is_allowed in needed.items() if not is_allowed]
    return f"\nI'm missing these permissions here: {', '.join(missing)}." if missing else ""


async def on_message(bot: Stemify, message: discord.Message) -> None:
    """Offer to split the audio of a new message, or start jobs, as its channel is set."""
    if message.author.bot or message.webhook_id is not None or message.guild is None:
        return
    parent = message.channel.parent_id if isinstance(message.channel, discord.Thread) else None
    mode = bot.listening.get(message.channel.id) or bot.listening.get(parent or 0)
    audio = audio_attachments(message) if mode and is_allowed(bot.settings.discord, message.guild.id) else []
    if not audio:
        return
    try:
        if mode == "button":
            await _offer(bot, message, audio)
        else:
            await _start(bot, message, audio)
    except discord.HTTPException as error:
        if classify_failure(error) not in (FailureKind.NO_ACCESS, FailureKind.GONE):
            raise
        log.info("cannot reply", extra={"channel": message.channel.id, "reason": error.text})


async def _offer(bot: Stemify, message: discord.Message, audio: list[discord.Attachment]) -> None:
    view = discord.ui.View(timeout=None)
    for index, attachment in enumerate(audio):
        of_what = "" if len(audio) == 1 else attachment.filename
        for karaoke, label in ((False, f"Split {of_what or 'into stems'}"), (True, f"Karaoke {of_what}")):
            view.add_item(SplitButton(message.channel.id, message.id, index, clean(label, 80), karaoke=karaoke))
    content = f"I can split {'this' if len(audio) == 1 else 'these'} into stems."
    channel = bot.get_partial_messageable(message.channel.id)
    await send(channel, message.id, lambda: {"content": content, "view": view, "nonce": f"o{message.id}"})


async def _start(bot: Stemify, message: discord.Message, audio: list[discord.Attachment]) -> None:
    assert message.guild is not None
    job_message = JobMessage(
        job_id=new_job_id(),
        user_id=message.author.id,
        channel_id=message.channel.id,
        guild_id=message.guild.id,
        reply_to=message.id,
        limit_bytes=message.guild.filesize_limit,
    )
    try:
        sources, options = [source_of(attachment) for attachment in audio], bot.options()
        if len(sources) == 1:
            await submit(bot, job_message, sources[0], options)
        else:
            await submit_batch(bot, job_message, sources, options)
    except NotAllowed as error:  # the user did not ask for anything
        log.info("audio ignored", extra={"channel": message.channel.id, "reason": error.message})
    except StemifyError as error:
        if not bot.refusal_notices.allow(message.author.id):
            return
        text = error_text(error, datetime.now(UTC))
        await send(bot.get_partial_messageable(message.channel.id), message.id, lambda: {"content": text})


class SplitButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]],
    template=r"stemify:split:(?P<channel>\d+):(?P<message>\d+):(?P<index>\d)(?P<karaoke>:karaoke)?",
):
    """A button under posted audio; the user who presses it owns the job."""

    def __init__(self, channel_id: int, message_id: int, index: int, label: str, *, karaoke: bool) -> None:
        custom_id = f"stemify:split:{channel_id}:{message_id}:{index}{':karaoke' if karaoke else ''}"
        style = discord.ButtonStyle.secondary if karaoke else discord.ButtonStyle.primary
        super().__init__(discord.ui.Button(label=label, style=style, custom_id=custom_id))
        self.channel_id, self.message_id, self.index, self.karaoke = channel_id, message_id, index, karaoke

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        assert isinstance(item, discord.ui.Button)
        numbers = int(match["channel"]), int(match["message"]), int(match["index"])
        return cls(*numbers, item.label or "", karaoke=match["karaoke"] is not None)

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        await run_guarded(interaction, self._split(interaction))

    async def _split(self, interaction: discord.Interaction[Stemify]) -> None:
        answer_id = await acknowledge(interaction, thinking=True)
        bot = interaction.client
        # Fetch the message again: the URLs of attachments expire, and it may have been deleted.
        channel = bot.get_partial_messageable(self.channel_id, guild_id=interaction.guild_id)
        try:
            message = await retry_on_disconnect(lambda: channel.fetch_message(self.message_id))
            attachment = audio_attachments(message)[self.index]
        except (discord.NotFound, discord.Forbidden, IndexError):
            raise NotFound("The message with the audio was deleted. Post it again, or use `/stemify`.") from None
        job_message = job_message_of(interaction, answer_id, new_job_id())
        await submit(bot, job_message, source_of(attachment), bot.options(karaoke=self.karaoke))
        mark_answered(interaction)
