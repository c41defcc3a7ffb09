"""Every file type offered to users can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.jobs.file_types import EXTENSIONS
from engine.media.decode import probe
from engine.media.limits import MediaLimits
from engine.web.static_files import STATIC
from tests.fixtures.songs import make_song

MUXERS = {
    ".mp3": ("mp3", "libmp3lame"),
    ".mp2": ("mp2", "mp2"),
    ".wav": ("wav", "pcm_s16le"),
    ".w64": ("w64", "pcm_s16le"),
    ".flac": ("flac", "flac"),
    ".ogg": ("ogg", "vorbis"),
    ".oga": ("ogg", "flac"),
    ".opus": ("opus", "libopus"),
    ".m4a": ("ipod", "aac"),
    ".m4b": ("ipod", "aac"),
    ".m4r": ("ipod", "alac"),
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".mov": ("mov", "pcm_s16le"),
    ".3gp": ("3gp", "aac"),
    ".3g2": ("3g2", "aac"),
    ".webm": ("webm", "libopus"),
    ".weba": ("webm", "libopus"),
    ".mka": ("matroska", "flac"),
    ".mkv": ("matroska", "aac"),
    ".aac": ("adts", "aac"),
    ".aiff": ("aiff", "pcm_s16be"),
    ".aif": ("aiff", "pcm_s24be"),
    ".aifc": ("aiff", "pcm_s16le"),
    ".caf": ("caf", "pcm_s16be"),
}


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_offered_file_type_is_decoded(tmp_path: Path, extension: str) -> None:
    container, codec = MUXERS[extension]
    path = tmp_path / f"song{extension}"
    make_song(path, seconds=1, sample_rate=48000, container=container, codec=codec)
    assert probe(path, MediaLimits()).duration_s == pytest.approx(1, abs=0.1)


def test_file_dialogue_offers_every_readable_type() -> None:
    accept = re.search(r'id="file"[^>]*accept="([^"]*)"', (STATIC / "index.html").read_text())
    assert accept is not None
    assert accept[1].split(",") == ["audio/*", *EXTENSIONS]
