"""The Discord client: what it knows, how it starts, and where every interaction's errors go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import discord
import yarl
from discord import app_commands
from discord.http import Route

from bot.buttons import DeleteEverythingButton, JobButton
from bot.commands import listen
from bot.commands.job import JobCommands, delete_everything, run_action
from bot.commands.listen import SplitButton, listen_command
from bot.commands.stemify import stemify_command, stemify_menu
from bot.database import BotDatabase, JobMessage, JobMessageState
from bot.deletion import JobDeleter
from bot.messages import Messenger
from bot.progress import ProgressTracker
from bot.responses import InteractionFailed, refuse, run_guarded
from bot.sync import CommandSync
from config.proxies import proxy_for
from config.settings import Settings
from engine.backend import Backend

log = logging.getLogger(__name__)

VITAL_EVENTS = ("READY", "RESUMED")  # without these there is no session


class ShardNotConnected(Exception):
    """Raised when a shard did not connect at the first attempt."""


class CommandTree(app_commands.CommandTree["Stemify"]):
    async def on_error(self, interaction: discord.Interaction[Stemify], error: app_commands.AppCommandError, /) -> None:
        await refuse(interaction, error)

    async def _call(self, interaction: discord.Interaction[Stemify]) -> None:
        """Send every error to `on_error`. discord.py sends only its own there and leaves the user without an answer
        after others, as when the payload cannot be parsed."""
        try:
            await super()._call(interaction)
        except app_commands.AppCommandError:
            raise
        except Exception as error:
            raise InteractionFailed(error) from error


class Stemify(discord.AutoShardedClient):
    """The bot. Everything behind it is the service; everything it must remember is in the memory."""

    def __init__(self, settings: Settings, house: Backend, memory: BotDatabase, *, message_content: bool) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, message_content=message_content)
        super().__init__(
            intents=intents,
            allowed_mentions=discord.AllowedMentions.none(),
            max_messages=None,
            member_cache_flags=discord.MemberCacheFlags.none(),
            chunk_guilds_at_startup=False,
            proxy=proxy_for(Route.BASE, settings.discord.proxy_url),
        )
        self.settings = settings
        self.house = house
        self.service = house.service
        self.memory = memory
        self.sees_attachments = message_content
        self.listening: dict[int, str] = {}
        self.wire = Messenger(self)
        self.progress = ProgressTracker(self)
        self.removal = JobDeleter(self)
        self.commands_sync = CommandSync(self)
        self.tree = CommandTree(
            self,
            allowed_installs=app_commands.AppInstallationType(guild=True, user=True),
            allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True),
        )
        self.tree.add_command(stemify_command)
        self.tree.add_command(stemify_menu)
        self.tree.add_command(listen_command)
        self.tree.add_command(JobCommands())
        self._left_over: list[JobMessage] = []
        self._launched: set[int] = set()
        parsers = self._connection.parsers
        parsers.update(
            {event: _skip_unreadable(event, parse) for event, parse in parsers.items() if event not in VITAL_EVENTS}
        )

    @property
    def own_id(self) -> int:
        assert self.user is not None
        return self.user.id

    async def setup_hook(self) -> None:
        self.add_dynamic_items(JobButton, DeleteEverythingButton, SplitButton)
        self.listening = await self.memory.listening()
        self._left_over = await self.memory.unfinished()  # before any interaction can add to them
        await self.commands_sync.start()
        self.removal.forget_old_ones()

    async def launch_shard(self, gateway: yarl.URL, shard_id: int, *, initial: bool = False) -> None:
        """Connect one shard. Raises `ShardNotConnected`, where discord.py would retry by calling this again, without
        end and every 5 s."""
        if shard_id in self._launched:
            raise ShardNotConnected
        self._launched.add(shard_id)
        await super().launch_shard(gateway, shard_id, initial=initial)

    async def on_connect(self) -> None:
        left_over, self._left_over = self._left_over, []
        self.removal.take_up([posting for posting in left_over if posting.state is JobMessageState.DELETING])
        await self.progress.resume([posting for posting in left_over if posting.state is not JobMessageState.DELETING])
        await self.on_resumed()

    async def on_resumed(self) -> None:
        """Discord can be reached again: tell what could not be told while it could not."""
        unfinished = await self.memory.unfinished()
        await self.progress.resume([posting for posting in unfinished if posting.state is JobMessageState.FOLLOWING])

    async def on_ready(self) -> None:
        log.info("connected to discord as %s, in %s servers", self.user, len(self.guilds))

    async def on_message(self, message: discord.Message) -> None:
        await listen.on_message(self, message)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        await self.memory.forget_guild(guild.id)
        self.listening = await self.memory.listening()

    async def on_error(self, event_method: str, /, *args: object, **kwargs: object) -> None:
        log.exception("event %s failed", event_method)

    async def on_delete_everything(self, interaction: discord.Interaction[Stemify], user_id: int) -> None:
        await run_guarded(interaction, delete_everything(interaction, user_id))

    async def on_job_button(self, interaction: discord.Interaction[Stemify], action: str, job_id: str) -> None:
        await run_guarded(interaction, run_action(interaction, action, job_id))

    async def close(self) -> None:
        await self.commands_sync.close()
        await self.removal.close()
        await self.progress.close()
        await super().close()


def _skip_unreadable(event: str, parse: Callable[[Any], None]) -> Callable[[Any], None]:
    """Log and skip an event that cannot be parsed; discord.py would end the connection."""

    def parse_or_skip(data: Any) -> None:
        try:
            parse(data)
        except Exception as error:
            log.warning("skipped an event that cannot be parsed: %s (%s: %s)", event, type(error).__name__, error)

    return parse_or_skip
