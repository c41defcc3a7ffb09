"""Post mixes of a result, each once."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import discord

from bot.announcement import text
from bot.database.database import BotDatabase, JobMessage
from bot.messages.attachments import REQUEST_BYTES, next_limit
from bot.messages.messenger import FailureKind, Messenger, classify_failure, retry_on_disconnect
from bot.text import clean
from engine.errors import InvalidState, NotFound, StemifyError
from engine.jobs.job import Job
from engine.service.service import MixRequest, ResultFile, StemService


class MixPoster:
    def __init__(self, database: BotDatabase, messages: Messenger, service: StemService) -> None:
        self._database = database
        self._messages = messages
        self._service = service
        self._running: set[tuple[str, str]] = set()

    async def post(self, card: JobMessage, job: Job, request: MixRequest, *, by: str) -> str:
        """Post the mix below the `card`, unless it is in the channel already; return the link to its message.

        Raises `InvalidState` while it is being made, errors of the service and of Discord.
        """
        mix = request.model_dump_json(exclude_defaults=True)
        if (job.id, mix) in self._running:
            raise InvalidState(text.MIX_IN_PROGRESS)
        self._running.add((job.id, mix))
        try:
            posted = (await self._database.mix_messages(job.id)).get(mix)
            if posted is None or not await self._exists(*posted):
                # Discord would answer a nonce that it remembers with the message that was deleted.
                mark = _nonce(job.id, mix) if posted is None else None
                sent = await self._make_and_send(card, job, request, by, mark)
                posted = (sent.channel.id, sent.id)
                await self._database.set_mix_message(job.id, mix, *posted)
                await self._check_not_deleted(job, sent)
        finally:
            self._running.discard((job.id, mix))
        return f"https://discord.com/channels/{card.guild_id or '@me'}/{posted[0]}/{posted[1]}"

    async def _exists(self, channel_id: int, message_id: int) -> bool:
        try:
            await retry_on_disconnect(self._messages.message(channel_id, message_id).fetch)
        except discord.HTTPException as error:
            return classify_failure(error) is not FailureKind.GONE
        return True

    async def _make_and_send(
        self, card: JobMessage, job: Job, request: MixRequest, by: str, mark: str | None
    ) -> discord.Message:
        limit_bytes = min(self._messages.file_limit(card), REQUEST_BYTES)
        while limit_bytes:
            file = await self._service.mix_within(job.id, request, limit_bytes, by=by)
            if file is None:
                break
            try:
                return await self._send(card, file, mark)
            except discord.HTTPException as error:
                if classify_failure(error) is not FailureKind.TOO_LARGE:
                    raise
                limit_bytes = next_limit(limit_bytes)
        raise StemifyError(text.MIX_TOO_LARGE)

    async def _send(self, card: JobMessage, file: ResultFile, mark: str | None) -> discord.Message:
        """Send to the thread or the channel; if that is refused, with the interaction's token."""
        caption = text.mix(file.name, file.bit_rate)
        async with self._service.open_result_file(file) as path:

            def content() -> dict[str, Any]:
                attached = discord.File(path, filename=file.filename, description=clean(file.name, 150))
                return {"content": caption, "file": attached, "allowed_mentions": discord.AllowedMentions.none()}

            if card.reachable:
                uses_threads = self._database.servers.of(card.guild_id).uses_threads
                for in_thread in (True, False) if uses_threads else (False,):
                    try:
                        return await self._messages.send_about(
                            card, lambda: {**content(), "nonce": mark}, in_thread=in_thread
                        )
                    except discord.HTTPException as error:
                        if classify_failure(error) in (FailureKind.TRANSIENT, FailureKind.TOO_LARGE):
                            raise
            webhook = self._messages.webhook(card)
            original: Any = "@original"
            # The first follow-up would replace the deferred private answer.
            await retry_on_disconnect(lambda: webhook.edit_message(original, content=text.POSTING))
            return await retry_on_disconnect(
                lambda: webhook.send(**content(), wait=True, ephemeral=card.is_private), repeatable=False
            )

    async def _check_not_deleted(self, job: Job, sent: discord.Message) -> None:
        """Delete the message of a job that was deleted in the meantime. Raises `NotFound` then."""
        try:
            await self._service.get(job.id)
        except NotFound:
            await retry_on_disconnect(sent.delete)
            raise


def _nonce(job_id: str, mix: str) -> str:
    """Return a nonce of Discord's maximum of 25 characters at most."""
    return base64.urlsafe_b64encode(hashlib.sha256(f"{job_id} {mix}".encode()).digest()[:18]).decode()
