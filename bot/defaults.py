"""Options of users, with the operator's defaults for what they did not choose."""

from __future__ import annotations

from collections.abc import Sequence

from bot import text
from config.settings import Discord
from engine.jobs.models import MODELS, better_model, stems_of
from engine.jobs.options import OutputFormat, Quality, StemSeparationOptions
from engine.service.service import ModelChoice
from engine.service.snapshot import ready_models

_STANDARD = "htdemucs"  # others may replace it
_STAND_IN_FOR_NONE = "mini"  # its stems are rougher, so it is used only if it was chosen


def user_options(
    settings: Discord,
    models: Sequence[ModelChoice],
    *,
    model: str | None = None,
    quality: str | None = None,
    output_format: str | None = None,
    karaoke: bool = False,
    normalize: bool = False,
) -> StemSeparationOptions:
    """Return the options of a job; None stands for the default. Raises `UnknownModel`, `BadOptions`."""
    quality = quality or settings.default_quality
    if output_format is None:
        is_stem = settings.default_format == OutputFormat.STEM  # which needs four stems
        output_format = OutputFormat.MP3 if karaoke and is_stem else settings.default_format
    return StemSeparationOptions.from_user(
        model=model or default_model(settings.default_model, quality, models, karaoke=karaoke),
        quality=quality,
        output_format=output_format,
        remove_vocals=karaoke,
        normalize=normalize,
    )


def default_model(preferred: str, quality: str, models: Sequence[ModelChoice], *, karaoke: bool = False) -> str:
    """Return the preferred model, or the first other one with its stems if it cannot be used here."""
    usable = [choice.name for choice in models if choice.usable]
    better = better_model(best=quality == Quality.BEST, karaoke=karaoke, ready=ready_models(models))
    wanted = [better if preferred == _STANDARD else preferred]
    stems = set(stems_of(preferred if preferred in MODELS else "htdemucs"))
    others = [name for name in MODELS if name != _STAND_IN_FOR_NONE and stems <= set(stems_of(name))]
    return next((name for name in [*wanted, preferred, *others] if name in usable), preferred)


def unusable_model(settings: Discord, models: Sequence[ModelChoice]) -> str | None:
    """Return why the default model cannot be used here and which one is used instead, or None."""
    preferred = settings.default_model
    if any(choice.name == preferred and choice.usable for choice in models):
        return None
    reason = next((choice.reason for choice in models if choice.name == preferred), None)
    other = default_model(preferred, settings.default_quality, models)
    return text.unusable_model(preferred, reason, other if other != preferred else None)
