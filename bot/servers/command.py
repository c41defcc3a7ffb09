"""`/settings`: what the managers of a server decide, and who used the bot there."""

from __future__ import annotations

from collections.abc import Sized
from typing import Literal

import discord
from discord import app_commands

from bot.cards.job_lines import job_labels
from bot.client import Stemify
from bot.commands.answers import show_deletion
from bot.database.servers import ServerSettings
from bot.defaults import unusable_model, user_options
from bot.listening.command import Place, PlaceTransformer
from bot.messages.messenger import retry_on_disconnect
from bot.messages.responses import acknowledge
from bot.messages.text import ONLY_IN_SERVERS
from bot.rules.operator import check_server
from bot.servers import text
from bot.servers.activity import activity_text, jobs_in
from bot.submission.estimates import model_choices
from engine.errors import BadOptions, NotFound
from engine.jobs.models import MODELS, unknown_model
from engine.jobs.options import OutputFormat, Quality

MOST_JOBS_PER_HOUR = 1000
MOST_RULES = 14  # roles, channels, limits and users each: all fit into a message

_QUALITIES = [app_commands.Choice(name=name, value=name) for name in (*Quality, text.OPERATORS)]
_FORMATS = [app_commands.Choice(name=name, value=name) for name in (*OutputFormat, text.OPERATORS)]


class SettingsCommands(app_commands.Group):
    """The command group `/settings`."""

    def __init__(self) -> None:
        super().__init__(
            name="settings",
            description=text.DESCRIPTION,
            default_permissions=discord.Permissions(manage_guild=True),
            allowed_installs=app_commands.AppInstallationType(guild=True, user=False),
            allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=False, private_channel=False),
        )

    @app_commands.command(description=text.SHOW_DESCRIPTION)
    async def show(self, interaction: discord.Interaction[Stemify]) -> None:
        await _answer(interaction, await _begin(interaction))

    @app_commands.command(description=text.DEFAULTS_DESCRIPTION)
    @app_commands.describe(
        model=text.MODEL,
        quality=text.QUALITY,
        output_format=text.OUTPUT_FORMAT,
    )
    @app_commands.rename(output_format="format")
    @app_commands.choices(quality=_QUALITIES, output_format=_FORMATS)
    async def defaults(
        self,
        interaction: discord.Interaction[Stemify],
        model: str | None = None,
        quality: str | None = None,
        output_format: str | None = None,
    ) -> None:
        guild_id = await _begin(interaction)
        chosen = {"model": model, "quality": quality, "output_format": output_format}
        given = {
            name: None if value == text.OPERATORS else value for name, value in chosen.items() if value is not None
        }
        if (name := given.get("model")) is not None and name not in MODELS:
            raise unknown_model(name)
        if (quality := given.get("quality")) is not None:
            given["quality"] = Quality(quality)
        if (output_format := given.get("output_format")) is not None:
            given["output_format"] = OutputFormat(output_format)
        bot = interaction.client
        current = bot.database.servers.of(guild_id)
        trial = bot.with_defaults(current.model_copy(update=given))
        user_options(trial, bot.service.models())  # raises if they exclude each other
        await bot.database.servers.change(guild_id, lambda _: dict(given))
        await _answer(interaction, guild_id)

    @app_commands.command(description=text.ROLE_DESCRIPTION)
    @app_commands.describe(role=text.ROLE, allowed=text.ROLE_ALLOWED)
    async def role(self, interaction: discord.Interaction[Stemify], role: discord.Role, allowed: bool = True) -> None:
        await _change_list(interaction, "roles", role.id, add=allowed)

    @app_commands.command(description=text.CHANNEL_DESCRIPTION)
    @app_commands.describe(channel=text.CHANNEL, allowed=text.CHANNEL_ALLOWED)
    async def channel(
        self,
        interaction: discord.Interaction[Stemify],
        channel: app_commands.Transform[Place, PlaceTransformer],
        allowed: bool = True,
    ) -> None:
        await _change_list(interaction, "channels", channel.id, add=allowed)

    @app_commands.command(description=text.LIMIT_DESCRIPTION)
    @app_commands.describe(
        songs=text.LIMIT_SONGS,
        role=text.LIMIT_ROLE,
    )
    async def limit(
        self,
        interaction: discord.Interaction[Stemify],
        songs: app_commands.Range[int, 0, MOST_JOBS_PER_HOUR] | None = None,
        role: discord.Role | None = None,
    ) -> None:
        guild_id = await _begin(interaction)

        def change(current: ServerSettings) -> dict[str, object]:
            if role is None:
                return {"jobs_per_hour": songs}
            others = {key: value for key, value in current.role_jobs_per_hour.items() if key != role.id}
            if songs is not None:
                _check_room(others)
            return {"role_jobs_per_hour": others if songs is None else {**others, role.id: songs}}

        await interaction.client.database.servers.change(guild_id, change)
        await _answer(interaction, guild_id)

    @app_commands.command(description=text.RESULTS_DESCRIPTION)
    @app_commands.describe(stems=text.RESULTS_STEMS, mixes=text.RESULTS_MIXES)
    async def results(
        self,
        interaction: discord.Interaction[Stemify],
        stems: Literal["channel", "thread"] | None = None,
        mixes: Literal["everyone", "requester"] | None = None,
    ) -> None:
        guild_id = await _begin(interaction)
        changes: dict[str, object] = {} if stems is None else {"uses_threads": stems == "thread"}
        changes |= {} if mixes is None else {"only_requester_mixes": mixes == "requester"}
        await interaction.client.database.servers.change(guild_id, lambda _: changes)
        await _answer(interaction, guild_id)

    @app_commands.command(description=text.VOICE_DESCRIPTION)
    @app_commands.describe(buttons=text.VOICE_BUTTONS, role=text.VOICE_ROLE)
    async def voice(
        self,
        interaction: discord.Interaction[Stemify],
        buttons: Literal["everyone", "requester"],
        role: discord.Role | None = None,
    ) -> None:
        guild_id = await _begin(interaction)
        is_restricted = buttons == "requester"
        if role is not None and not is_restricted:
            raise BadOptions(text.ROLE_WITH_EVERYONE)
        changes = {"restricts_player": is_restricted, "player_role": None if role is None else role.id}
        await interaction.client.database.servers.change(guild_id, lambda _: dict(changes))
        await _answer(interaction, guild_id)

    @app_commands.command(description=text.BLOCK_DESCRIPTION)
    @app_commands.describe(user=text.USER, blocked=text.BLOCKED)
    async def block(self, interaction: discord.Interaction[Stemify], user: discord.User, blocked: bool = True) -> None:
        await _change_list(interaction, "blocked", user.id, add=blocked)

    @app_commands.command(description=text.ACTIVITY_DESCRIPTION)
    async def activity(self, interaction: discord.Interaction[Stemify]) -> None:
        guild_id = await _begin(interaction)
        answer = await activity_text(interaction.client, guild_id)
        await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer))

    @app_commands.command(description=text.DELETE_DESCRIPTION)
    @app_commands.describe(job=text.JOB)
    async def delete(self, interaction: discord.Interaction[Stemify], job: str) -> None:
        guild_id = await _begin(interaction)
        views = {view.job.id: view for _, view, _ in await jobs_in(interaction.client, guild_id)}
        if (view := views.get(job)) is None:
            raise NotFound
        await show_deletion(interaction, await interaction.client.deletion.delete(view))

    @delete.autocomplete("job")
    async def _complete_job(
        self, interaction: discord.Interaction[Stemify], current: str
    ) -> list[app_commands.Choice[str]]:
        jobs = await jobs_in(interaction.client, interaction.guild_id or 0)
        labels = job_labels(view for _, view, _ in jobs)
        return [
            app_commands.Choice(name=label, value=job_id)
            for label, job_id in labels
            if current.casefold() in label.casefold()
        ]

    @defaults.autocomplete("model")
    async def _complete_model(
        self, interaction: discord.Interaction[Stemify], current: str
    ) -> list[app_commands.Choice[str]]:
        found = [*await model_choices(interaction.client, interaction.guild_id, None), (text.OPERATORS, text.OPERATORS)]
        return [app_commands.Choice(name=name, value=model) for model, name in found if current.casefold() in model][
            :25
        ]


async def _begin(interaction: discord.Interaction[Stemify]) -> int:
    """Acknowledge privately and return the server. Raises `NotAllowed`."""
    await acknowledge(interaction, ephemeral=True)
    if interaction.guild_id is None:
        raise NotFound(ONLY_IN_SERVERS)
    check_server(interaction.client.settings.discord, interaction.guild_id)
    return interaction.guild_id


async def _change_list(interaction: discord.Interaction[Stemify], name: str, entry: int, *, add: bool) -> None:
    guild_id = await _begin(interaction)

    def change(current: ServerSettings) -> dict[str, object]:
        others = getattr(current, name) - {entry}
        if name == "roles" and interaction.guild is not None:
            others = frozenset(filter(interaction.guild.get_role, others))  # without roles that were deleted
        if add:
            _check_room(others)
        return {name: others | {entry} if add else others}

    await interaction.client.database.servers.change(guild_id, change)
    await _answer(interaction, guild_id)


def _check_room(entries: Sized) -> None:
    """Raise `BadOptions` if a list is full."""
    if len(entries) >= MOST_RULES:
        raise BadOptions(text.too_many_entries(MOST_RULES))


async def _answer(interaction: discord.Interaction[Stemify], guild_id: int) -> None:
    """Show the settings of the server."""
    bot = interaction.client
    defaults = bot.defaults(guild_id)
    chosen = f"{defaults.default_model} · {defaults.default_quality} · {defaults.default_format}"
    answer = text.settings_text(bot.database.servers.of(guild_id), chosen)
    if (unusable := unusable_model(defaults, bot.service.models())) is not None:
        answer += f"\n{unusable}"
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer))
