"""What users read about choices before a job, and about songs that were not accepted."""

from __future__ import annotations

from engine.jobs.options import OutputFormat

CANCELLED = "cancelled"
SOURCE_GONE = "The message with the audio was deleted. Post it again, or use `/stemify`."
NONE_ACCEPTED = "None of these songs was accepted."
DEFAULT = "default"
FORMATS = {
    OutputFormat.MP3: "small files",
    OutputFormat.FLAC: "lossless, smaller than wav",
    OutputFormat.WAV: "lossless",
    OutputFormat.STEM: "mp3, and one file for Traktor or Mixxx",
}


def too_many(most: int) -> str:
    return f"not started: at most {most} songs at once"


def more_left_out(count: int) -> str:
    return f"{count} more"


def refused_song(name: str, reason: str) -> str:
    return f"{name}: {reason}"


def format_size(note: str, song_min: int, size_mb: int) -> str:
    return f"{note} · 4 stems of a {song_min}-min song: {size_mb} MB"


def not_available(reason: str | None) -> str:
    return f"not available: {reason or 'not loaded'}"


def song_takes(song_min: int, duration: str) -> str:
    return f"{song_min}-min song: {duration}"


def choice(name: str, details: str) -> str:
    return f"{name} — {details}"
