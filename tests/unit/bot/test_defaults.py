"""The options of a job for which a user chose little or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from bot.commands.stemify import describe_options, stemify_command
from bot.defaults import user_options
from config.settings import Discord, load
from engine.jobs.models import MODELS
from engine.jobs.options import OutputFormat, Quality
from engine.service.service import ModelChoice


def discord(**changes: Any) -> Discord:
    return load().discord.model_copy(update=changes)


def models(*missing: str) -> list[ModelChoice]:
    return [ModelChoice(name, MODELS[name], usable=name not in missing) for name in MODELS]


def test_settings_replace_the_defaults() -> None:
    plain = user_options(discord(), models())
    assert (plain.model, plain.quality, plain.output_format) == ("htdemucs", Quality.BALANCED, OutputFormat.MP3)
    chosen = discord(default_model="mini", default_quality=Quality.FAST, default_format=OutputFormat.FLAC)
    options = user_options(chosen, models())
    assert (options.model, options.quality, options.output_format) == ("mini", Quality.FAST, OutputFormat.FLAC)
    named = user_options(chosen, models(), model="htdemucs_6s", quality="best", output_format="wav")
    assert (named.model, named.quality, named.output_format) == ("htdemucs_6s", Quality.BEST, OutputFormat.WAV)


@pytest.mark.parametrize(
    ("preferred", "quality", "missing", "model"),
    [
        ("htdemucs", "best", [], "htdemucs_ft"),
        ("htdemucs", "best", ["htdemucs_ft"], "htdemucs"),
        ("mini", "best", [], "mini"),
        ("htdemucs", "balanced", ["htdemucs"], "htdemucs_ft"),
        ("mini", "balanced", ["mini"], "htdemucs"),
        ("melband_vocals", "balanced", ["melband_vocals"], "melband_vocals"),
        ("htdemucs_6s", "balanced", ["htdemucs_6s"], "htdemucs_6s"),
        ("htdemucs", "balanced", [name for name in MODELS if name != "mini"], "htdemucs"),
    ],
)
def test_model_that_cannot_be_used_is_not_the_default(
    preferred: str, quality: str, missing: list[str], model: str
) -> None:
    options = user_options(discord(default_model=preferred), models(*missing), quality=quality)
    assert options.model == model


def test_karaoke_is_mp3_where_the_default_is_a_stem_file() -> None:
    settings = discord(default_format=OutputFormat.STEM)
    assert user_options(settings, models(), karaoke=True).output_format is OutputFormat.MP3
    assert user_options(settings, models()).output_format is OutputFormat.STEM


def test_options_of_the_command_state_limits_and_defaults() -> None:
    loaded = load()
    limits = loaded.limits.model_copy(update={"input_bytes": 25 * 2**20, "input_duration_s": 1200.0})
    changed = {"limits": limits, "discord": discord(default_format=OutputFormat.FLAC)}
    try:
        describe_options(loaded.model_copy(update=changed))
        shown = {option.name: str(option.description) for option in stemify_command.parameters}
    finally:
        describe_options(loaded)
    assert shown["file"].endswith("up to 25 MB and 20 minutes")
    assert shown["output_format"] == "The file format of the stems (default: flac)"
    assert "up to 50 MB and 10 minutes" in str(stemify_command.get_parameter("file").description)  # type: ignore[union-attr]
