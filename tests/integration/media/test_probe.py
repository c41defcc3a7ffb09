"""Untrusted files are described, or refused with a specific message."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.errors import (
    BrokenAudio,
    EmptyAudio,
    EmptyInput,
    InputRefused,
    NoAudioTrack,
    NotAudio,
    TooLarge,
    TooLong,
    TruncatedAudio,
)
from engine.media.limits import MediaLimits
from engine.media.sandbox import probe_in_sandbox
from tests.fixtures.songs import cover_jpeg, make_song, silence

LIMITS = MediaLimits(max_duration_s=10)


async def test_song_properties_are_reported(tmp_path: Path) -> None:
    mix = make_song(
        tmp_path / "song", container="flac", codec="flac", bits="24", seconds=2, sample_rate=48000,
        tags={"title": "Sunny", "artist": "A", "album": "B"}, cover=True,
    )  # fmt: skip
    info = await probe_in_sandbox(tmp_path / "song", LIMITS)
    assert (info.container, info.codec, info.bits) == ("flac", "flac", 24)
    assert (info.sample_rate, info.channels, info.samples, info.duration_s) == (48000, 2, 96000, 2.0)
    assert (info.title, info.artist, info.album, info.has_cover) == ("Sunny", "A", "B", True)
    assert info.peak == pytest.approx(np.abs(mix).max(), abs=1e-6)


@pytest.mark.parametrize("name", ["song.mp3", "song.m4a", "song.ogg", "song.webm", "clip.mp4", "clip.webm"])
async def test_content_decides_format_not_name(tmp_path: Path, name: str) -> None:
    rate = 48000 if name.endswith("webm") else 44100
    make_song(tmp_path / name, seconds=1, sample_rate=rate, video=name.startswith("clip"))
    wrong = (tmp_path / name).rename(tmp_path / "invoice.pdf")
    assert (await probe_in_sandbox(wrong, LIMITS)).duration_s == pytest.approx(1, abs=0.01)


def _wav_stating(data_bytes: int, seconds: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        make_song(path, container="wav", codec="pcm_s16le", seconds=seconds)
        data = bytearray(path.read_bytes())
        at = data.index(b"data") + 4
        data[at : at + 4] = struct.pack("<I", data_bytes)
        path.write_bytes(data)

    return write


def _flac_stating(samples: int, seconds: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        make_song(path, container="flac", codec="flac", seconds=seconds)
        data = bytearray(path.read_bytes())
        fields = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
        data[18:26] = fields.to_bytes(8, "big")
        path.write_bytes(data)

    return write


def _mp3_stating(frames: int, seconds: float, times: int = 1) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        make_song(path, container="mp3", codec="libmp3lame", seconds=seconds)
        data = bytearray(path.read_bytes())
        at = data.index(b"Info") + 8
        data[at : at + 4] = struct.pack(">I", frames)
        path.write_bytes(bytes(data) + bytes(data[2000:]) * (times - 1))

    return write


def _truncated(share: float, suffix: str, **choices: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        whole = path.with_suffix(suffix)
        make_song(whole, seconds=4, **choices)  # type: ignore[arg-type]
        path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])

    return write


def _bytes(data: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(data))


REFUSED: dict[str, tuple[Callable[[Path], None], type[InputRefused], str]] = {
    "empty": (_bytes(b""), EmptyInput, "empty"),
    "text": (_bytes(b"just some words\n" * 500), NotAudio, "not an audio file"),
    "html": (_bytes(b"<html><body>404</body></html>"), NotAudio, "not an audio file"),
    "picture": (_bytes(cover_jpeg(300)), NotAudio, "not an audio file"),
    "noise": (_bytes(np.random.default_rng(1).bytes(200_000)), NotAudio, "not an audio file"),
    "playlist": (_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), NotAudio, "not an audio file"),
    "concat": (_bytes(b"ffconcat version 1.0\nfile '/etc/passwd'\n"), NotAudio, "not an audio file"),
    "only a tag": (_bytes(b"ID3\x04\0\0\0\0\x10\0" + bytes(3000)), BrokenAudio, "damaged"),
    "video without sound": (
        lambda path: void(make_song(path, container="mp4", codec="aac", video=True, audio=False)),
        NoAudioTrack,
        "no sound in it",
    ),
    "no sample": (lambda path: void(make_song(path, samples=silence(0))), EmptyAudio, "without a single sample"),
    "11 seconds": (lambda path: void(make_song(path, seconds=11)), TooLong, "0:11 long. The limit is 0:10"),
    "half an mp3": (_truncated(0.5, ".mp3"), TruncatedAudio, "should be 0:04 long but ends after 0:02"),
    "half a flac": (_truncated(0.5, ".flac"), TruncatedAudio, "long but ends after 0:02"),
    "half a wav": (_truncated(0.5, ".wav"), TruncatedAudio, "long but ends after 0:02"),
    "half an ogg": (_truncated(0.5, ".ogg"), TruncatedAudio, "end of that file is missing"),
    "half a webm": (_truncated(0.5, ".webm", sample_rate=48000), TruncatedAudio, "long but ends after 0:02"),
    "half an m4a": (_truncated(0.5, ".m4a"), BrokenAudio, "damaged"),
    "half an m4a, index first": (
        _truncated(0.5, ".m4a", container_options={"movflags": "+faststart"}),
        TruncatedAudio,
        "long but ends after 0:02",
    ),
    "wav states 3 hours": (_wav_stating(44100 * 4 * 10800, 2), TruncatedAudio, "should be 3:00:00 long"),
    "wav states 1 s, has 12": (_wav_stating(44100 * 4, 12), TooLong, "longer than 0:10"),
    "flac states 1 s, has 12": (_flac_stating(44100, 12), TooLong, "longer than 0:10"),
    "flac states 10 hours": (_flac_stating(44100 * 36000, 2), TruncatedAudio, "should be 10:00:00 long"),
    "mp3 states 1 s, has 15": (_mp3_stating(38, 5, times=3), TooLong, "longer than 0:10"),
    "mp3 states 7 hours": (_mp3_stating(10**6, 2), TruncatedAudio, "long but ends after 0:02"),
    "500 Hz": (
        lambda path: void(make_song(path, seconds=1, sample_rate=500)),
        InputRefused,
        "sample rate of 500 Hz",
    ),
}


def void(value: object) -> None:
    """Drop a result."""


@pytest.mark.parametrize("name", REFUSED)
async def test_bad_input_is_refused_with_specific_message(tmp_path: Path, name: str) -> None:
    write, kind, words = REFUSED[name]
    path = tmp_path / "song"
    write(path)
    with pytest.raises(InputRefused) as refusal:
        await probe_in_sandbox(path, LIMITS)
    assert type(refusal.value) is kind
    assert words in refusal.value.message
    assert re.search(r"\b(send|export|upload|cut)\b", refusal.value.message, re.IGNORECASE)  # the next step
    assert "<none>" not in refusal.value.message


ACCEPTED: dict[str, tuple[Callable[[Path], None], float]] = {
    "wav without a length": (_wav_stating(0xFFFFFFFF, 2), 2),
    "wav with length 0": (_wav_stating(0, 2), 2),
    "wav of a crashed recorder": (_wav_stating(44100 * 2, 2), 2),
    "flac without a length": (_flac_stating(0, 2), 2),
    "mp3 without a header, cut": (_truncated(0.5, ".mp3", container_options={"write_xing": "0"}), 2),
    "one sample": (lambda path: void(make_song(path, samples=silence(1)[:, :1])), 1 / 44100),
    "a little over the limit": (lambda path: void(make_song(path, seconds=10.2)), 10.2),
    "384 kHz": (lambda path: void(make_song(path, seconds=1, sample_rate=384_000)), 1),
    "64 channels": (lambda path: void(make_song(path, seconds=0.5, channels=64)), 0.5),
    "NaN": (lambda path: void(make_song(path, samples=np.full((2, 44100), np.nan, "f4"), bits="f32")), 1),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_unusual_valid_input_is_accepted(tmp_path: Path, name: str) -> None:
    write, seconds = ACCEPTED[name]
    write(tmp_path / "song")
    assert (await probe_in_sandbox(tmp_path / "song", LIMITS)).duration_s == pytest.approx(seconds, abs=0.05)


async def test_wav_with_trailing_chunks_has_length_of_its_data(tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=1)
    with (tmp_path / "song.wav").open("ab") as file:
        file.write(b"id3 " + struct.pack("<I", 300_000) + bytes(300_000))
    assert (await probe_in_sandbox(tmp_path / "song.wav", LIMITS)).duration_s == 1


async def test_file_over_byte_limit_is_refused_with_limit(tmp_path: Path) -> None:
    with (tmp_path / "song").open("wb") as file:
        file.truncate(51 * 1024 * 1024)
    with pytest.raises(TooLarge, match=r"51\.0 MB\. The limit is 50 MB"):
        await probe_in_sandbox(tmp_path / "song", LIMITS)


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{song}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{song}'\n"],
)
async def test_playlist_cannot_read_another_file(tmp_path: Path, text: str) -> None:
    make_song(tmp_path / "song.mp3", seconds=1)
    (tmp_path / "list").write_text(text.format(song=tmp_path / "song.mp3"))
    with pytest.raises(NotAudio):
        await probe_in_sandbox(tmp_path / "list", LIMITS)
