"""The Discord client and the parts that commands and events use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import discord
import yarl
from discord import app_commands
from discord.http import Route

from bot.announcement.announcer import Announcer
from bot.announcement.mix_poster import MixPoster
from bot.database.database import BotDatabase, JobMessage, JobMessageState
from bot.database.servers import ServerSettings
from bot.defaults import user_options
from bot.deletion.deleter import JobDeleter
from bot.deletion.purge import DatabasePurger
from bot.messages.messenger import Messenger
from bot.messages.refusal_notices import RefusalNotices
from bot.messages.responses import InteractionFailed, refuse
from bot.progress.tracker import ProgressTracker
from bot.rules.server_rules import ServerRules
from bot.sync import CommandSync
from bot.voice.sessions import VoiceSessions
from bot.voice_extra import is_installed
from config.proxies import proxy_for
from config.settings import Discord, Settings
from engine.backend import Backend
from engine.jobs.options import StemSeparationOptions
from engine.service.service import Attachment, Link

log = logging.getLogger(__name__)

VITAL_EVENTS = ("READY", "RESUMED")  # without these there is no session


class ShardNotConnected(Exception):
    """Raised when a shard did not connect at the first attempt."""


class CommandTree(app_commands.CommandTree["Stemify"]):
    """A command tree that answers every error."""

    async def on_error(self, interaction: discord.Interaction[Stemify], error: app_commands.AppCommandError, /) -> None:
        await refuse(interaction, error)

    async def _call(self, interaction: discord.Interaction[Stemify]) -> None:
        """Send every error to `on_error`.

        discord.py sends only its own errors there. After any other, such as an unreadable payload, the user would get
        no answer.
        """
        try:
            await super()._call(interaction)
        except app_commands.AppCommandError:
            raise
        except Exception as error:
            raise InteractionFailed(error) from error


class Stemify(discord.AutoShardedClient):
    """The Discord client; `bot.app` registers its commands and events."""

    def __init__(self, settings: Settings, backend: Backend, database: BotDatabase, *, message_content: bool) -> None:
        intents = discord.Intents(
            guilds=True, messages=True, message_content=message_content, voice_states=is_installed()
        )
        super().__init__(
            intents=intents,
            allowed_mentions=discord.AllowedMentions.none(),
            max_messages=None,
            member_cache_flags=discord.MemberCacheFlags.none(),
            chunk_guilds_at_startup=False,
            proxy=proxy_for(Route.BASE, settings.discord.proxy_url),
        )
        self.settings = settings
        self.service = backend.service
        self.database = database
        self.sees_attachments = message_content
        self.listening: dict[int, str] = {}
        self.refusal_notices = RefusalNotices()
        self.offers_in_use: set[tuple[int, str]] = set()  # pressed, but their songs are not accepted yet
        self.menu_songs: dict[int, list[Attachment | Link]] = {}  # of the latest forms, by message
        self.messages = Messenger(self)
        announcer = Announcer(database, self.messages, self.service)
        self.progress = ProgressTracker(
            database, self.messages, self.service, announcer, edit_interval_s=settings.discord.edit_interval_s
        )
        self.deletion = JobDeleter(database, self.messages, self.service, self.progress)
        self.mixes = MixPoster(database, self.messages, self.service)
        self.rules = ServerRules(self, settings.discord, database.servers)
        self.voice: VoiceSessions | None = None
        if is_installed():
            self.voice = VoiceSessions(self, database.voice, self.service, backend.stages, self.messages, self.rules)
        self.tree = CommandTree(
            self,
            allowed_installs=app_commands.AppInstallationType(guild=True, user=settings.discord.user_install),
            allowed_contexts=app_commands.AppCommandContext(
                guild=True, dm_channel=True, private_channel=settings.discord.user_install
            ),
        )
        self._purger = DatabasePurger(database, self.service, backend.steady_now, settings.retention.stems_days)
        self._command_sync = CommandSync(self.tree, database)
        self._unfinished_at_start: list[JobMessage] = []
        self._launched: set[int] = set()
        parsers = self._connection.parsers
        parsers.update(
            {event: _skip_unreadable(event, parse) for event, parse in parsers.items() if event not in VITAL_EVENTS}
        )

    def defaults(self, guild_id: int | None) -> Discord:
        """Return the operator's settings with the defaults of a server."""
        return self.with_defaults(self.database.servers.of(guild_id))

    def with_defaults(self, chosen: ServerSettings) -> Discord:
        """Return the operator's settings with the defaults that the managers of a server have chosen."""
        defaults = {
            "default_model": chosen.model, "default_quality": chosen.quality, "default_format": chosen.output_format,
        }  # fmt: skip
        return self.settings.discord.model_copy(update={name: value for name, value in defaults.items() if value})

    def options(self, guild_id: int | None, **chosen: Any) -> StemSeparationOptions:
        """Return the options of a job, with defaults for what was not chosen. Raises what `user_options` raises."""
        return user_options(self.defaults(guild_id), self.service.models(), **chosen)

    async def setup_hook(self) -> None:
        self.listening = await self.database.listening.modes()
        self._unfinished_at_start = await self.database.unfinished()  # before any interaction can add to them
        await self._command_sync.start()
        self._purger.start()

    async def launch_shard(self, gateway: yarl.URL, shard_id: int, *, initial: bool = False) -> None:
        """Connect one shard, once.

        Raises `ShardNotConnected` for a second call: discord.py would retry every 5 s, forever.
        """
        if shard_id in self._launched:
            raise ShardNotConnected
        self._launched.add(shard_id)
        await super().launch_shard(gateway, shard_id, initial=initial)

    async def on_connect(self) -> None:
        unfinished, self._unfinished_at_start = self._unfinished_at_start, []
        self.deletion.resume([each for each in unfinished if each.state is JobMessageState.DELETING])
        await self.progress.resume([each for each in unfinished if each.state is not JobMessageState.DELETING])
        await self.on_resumed()

    async def on_resumed(self) -> None:
        """Follow the jobs whose updates failed while Discord was unreachable."""
        unfinished = await self.database.unfinished()
        await self.progress.resume([each for each in unfinished if each.state is JobMessageState.FOLLOWING])

    async def on_voice_state_update(
        self, member: discord.Member, before: discord.VoiceState, after: discord.VoiceState
    ) -> None:
        if self.voice is not None and self.user is not None and member.id == self.user.id:
            await self.voice.on_own_state(member.guild.id, after)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        await self.database.listening.delete_guild(guild.id)
        await self.database.servers.delete(guild.id)
        self.listening = await self.database.listening.modes()

    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        await self._forget_channel(channel.id)
        if channel.id in self.database.servers.of(channel.guild.id).channels:
            await self.database.servers.change(channel.guild.id, lambda now: {"channels": now.channels - {channel.id}})

    async def on_guild_role_delete(self, role: discord.Role) -> None:
        if self.database.servers.of(role.guild.id).uses_role(role.id):
            await self.database.servers.change(role.guild.id, lambda now: now.without_role(role.id))

    async def on_raw_thread_delete(self, payload: discord.RawThreadDeleteEvent) -> None:
        await self._forget_channel(payload.thread_id)

    async def _forget_channel(self, channel_id: int) -> None:
        if channel_id in self.listening:
            await self.database.listening.delete_channel(channel_id)
            self.listening = await self.database.listening.modes()

    async def on_error(self, event_method: str, /, *args: object, **kwargs: object) -> None:
        log.exception("event %s failed", event_method)

    async def close(self) -> None:
        if self.voice is not None:
            await self.voice.close()
        await self._command_sync.close()
        await self._purger.close()
        await self.deletion.close()
        await self.progress.close()
        await super().close()


def _skip_unreadable(event: str, parse: Callable[[Any], None]) -> Callable[[Any], None]:
    """Log and skip an event that cannot be parsed; discord.py would close the connection."""

    def parse_or_skip(data: Any) -> None:
        try:
            parse(data)
        except Exception as error:
            log.warning("skipped an event that cannot be parsed: %s (%s: %s)", event, type(error).__name__, error)

    return parse_or_skip
