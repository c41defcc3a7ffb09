"""The Discord client: what it knows, how it starts, and where every interaction's errors go."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging

import aiohttp
import discord
import yarl
from discord import app_commands
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bot import listen
from bot.answers import guarded, refuse
from bot.buttons import EverythingButton, JobButton
from bot.jobs import JobCommands, delete_everything, press
from bot.listen import SplitButton, listen_command
from bot.memory import Memory, Posting, PostingState
from bot.progress import Progress
from bot.removal import Removal
from bot.stemify import stemify_command, stemify_menu
from bot.wire import Wire
from config.settings import Settings
from engine.backend import House
from engine.errors import StemifyError

log = logging.getLogger(__name__)

RECONNECT_PAUSES_S = (2.0, 5.0, 15.0, 60.0)


class TokenRefused(StemifyError):
    """Discord does not accept the token. Check STEMIFY_DISCORD__TOKEN."""

    code = "token_refused"


class Tree(app_commands.CommandTree["Stemify"]):
    async def on_error(self, interaction: discord.Interaction[Stemify], error: app_commands.AppCommandError, /) -> None:
        await refuse(interaction, error)


class Stemify(discord.Client):
    """The bot. Everything behind it is the service; everything it must remember is in the memory."""

    def __init__(self, settings: Settings, house: House, memory: Memory, *, message_content: bool) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, message_content=message_content)
        super().__init__(
            intents=intents,
            allowed_mentions=discord.AllowedMentions.none(),
            max_messages=None,
            member_cache_flags=discord.MemberCacheFlags.none(),
            chunk_guilds_at_startup=False,
        )
        self.settings = settings
        self.house = house
        self.service = house.service
        self.memory = memory
        self.sees_attachments = message_content
        self.listening: dict[int, str] = {}
        self.wire = Wire(self)
        self.progress = Progress(self)
        self.removal = Removal(self)
        self.tree = Tree(
            self,
            allowed_installs=app_commands.AppInstallationType(guild=True, user=True),
            allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True),
        )
        self.tree.add_command(stemify_command)
        self.tree.add_command(stemify_menu)
        self.tree.add_command(listen_command)
        self.tree.add_command(JobCommands())
        self._left_over: list[Posting] = []

    @property
    def own_id(self) -> int:
        assert self.user is not None
        return self.user.id

    async def setup_hook(self) -> None:
        self.add_dynamic_items(JobButton, EverythingButton, SplitButton)
        self.listening = await self.memory.listening()
        self._left_over = await self.memory.unfinished()  # before any interaction can add to them
        await self._sync()
        self.removal.forget_old_ones()

    async def _sync(self) -> None:
        """Tell Discord about the commands when they are not the ones it was told last."""
        payload = sorted(
            (command.to_dict(self.tree) for command in self.tree.get_commands()),
            key=lambda command: (str(command["type"]), str(command["name"])),
        )
        digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
        now = f"{self.application_id}:{digest}"
        if await self.memory.note("commands") != now:
            await self.tree.sync()
            await self.memory.write_note("commands", now)
            log.info("commands synced")

    async def on_connect(self) -> None:
        left_over, self._left_over = self._left_over, []
        self.removal.take_up([posting for posting in left_over if posting.state is PostingState.DELETING])
        await self.progress.resume([posting for posting in left_over if posting.state is not PostingState.DELETING])
        await self.on_resumed()

    async def on_resumed(self) -> None:
        """Discord can be reached again: tell what could not be told while it could not."""
        unfinished = await self.memory.unfinished()
        await self.progress.resume([posting for posting in unfinished if posting.state is PostingState.FOLLOWING])

    async def on_ready(self) -> None:
        log.info("connected to discord as %s, in %s servers", self.user, len(self.guilds))

    async def on_message(self, message: discord.Message) -> None:
        await listen.heard(self, message)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        await self.memory.forget_guild(guild.id)
        self.listening = await self.memory.listening()

    async def on_error(self, event_method: str, /, *args: object, **kwargs: object) -> None:
        log.exception("event %s failed", event_method)

    async def pressed_everything(self, interaction: discord.Interaction[Stemify], user_id: int) -> None:
        await guarded(interaction, delete_everything(interaction, user_id))

    async def pressed(self, interaction: discord.Interaction[Stemify], action: str, job_id: str) -> None:
        await guarded(interaction, press(interaction, action, job_id))

    async def close(self) -> None:
        await self.removal.close()
        await self.progress.close()
        await super().close()


async def use_api(url: str) -> None:
    """Talk to another REST root than Discord's, and to the gateway that it names (tests do)."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/gateway") as answer:
        gateway = (await answer.json())["url"]
    Route.BASE = url
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway)


async def run_bot(settings: Settings, house: House, memory: Memory) -> None:
    """Stay connected until cancelled. Raises `TokenRefused`."""
    token = settings.discord.token
    assert token is not None
    discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # no voice here, so none is missed
    if settings.discord.api_url is not None:
        await use_api(settings.discord.api_url)
    message_content = settings.discord.message_content
    failures = 0
    while True:
        bot = Stemify(settings, house, memory, message_content=message_content)
        try:
            await bot.start(token.get_secret_value())
            return
        except discord.LoginFailure:
            raise TokenRefused from None
        except discord.PrivilegedIntentsRequired:
            log.warning("the message content intent is switched off for this bot; /listen will say so")
            message_content = False
        except (aiohttp.ClientError, OSError, discord.DiscordServerError, discord.GatewayNotFound) as error:
            pause_s = RECONNECT_PAUSES_S[min(failures, len(RECONNECT_PAUSES_S) - 1)]
            failures += 1
            log.warning("discord cannot be reached (%s), trying again in %s s", type(error).__name__, pause_s)
            await asyncio.sleep(pause_s)
        finally:
            await bot.close()
