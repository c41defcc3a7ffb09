"""Files come out as the samples that went in: in the right place, at the right level, of any codec and layout."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from engine.errors import TooLong
from engine.media.decode import Decoded, decode
from engine.media.samples import downmix_matrix
from tests.fixtures.songs import Samples, cover_jpeg, make_song, silence, tune


def decoded(path: Path, max_duration_s: float = 60) -> tuple[Decoded, Samples]:
    raw = path.with_suffix(".f32")
    facts = decode(path, raw, max_duration_s=max_duration_s)
    samples = np.fromfile(raw, "<f4").reshape(-1, facts.channels).T
    assert samples.shape[1] == facts.samples
    return facts, samples


def lag(reference: Samples, heard: Samples) -> int:
    """By how many samples `heard` comes later than `reference`."""
    count = min(reference.shape[1], heard.shape[1])
    size = 1 << (2 * count).bit_length()
    spectrum = np.fft.rfft(heard[0, :count], size) * np.conj(np.fft.rfft(reference[0, :count], size))
    best = int(np.argmax(np.fft.irfft(spectrum, size)))
    return best if best < size // 2 else best - size


def snr_db(reference: Samples, heard: Samples) -> float:
    count = min(reference.shape[1], heard.shape[1])
    error = heard[:, :count] - reference[:, :count]
    return float(10 * np.log10(np.square(reference[:, :count]).sum() / max(float(np.square(error).sum()), 1e-30)))


@pytest.mark.parametrize(
    ("name", "choices", "least_db", "length_exact"),
    [
        ("wav 16", {"suffix": ".wav"}, 75, True),
        ("wav 24", {"suffix": ".wav", "bits": "24"}, 120, True),
        ("wav 32", {"suffix": ".wav", "bits": "32"}, 140, True),
        ("wav float", {"suffix": ".wav", "bits": "f32"}, 200, True),
        ("wav double", {"suffix": ".wav", "bits": "f64"}, 140, True),
        ("wav 8", {"suffix": ".wav", "codec": "pcm_u8"}, 25, True),
        ("flac 16", {"suffix": ".flac"}, 75, True),
        ("flac 24", {"suffix": ".flac", "bits": "24"}, 120, True),
        ("alac 16", {"suffix": ".m4a", "codec": "alac"}, 75, True),
        ("alac 24", {"suffix": ".m4a", "codec": "alac", "bits": "24"}, 120, True),
        ("mp3", {"suffix": ".mp3", "bit_rate": 192000}, 15, True),
        ("mp3 mono", {"suffix": ".mp3", "channels": 1}, 15, True),
        ("mp3 48k", {"suffix": ".mp3", "sample_rate": 48000, "bit_rate": 192000}, 15, True),
        ("mp3 22k", {"suffix": ".mp3", "sample_rate": 22050, "bit_rate": 160000}, 15, True),
        ("mp3 8k", {"suffix": ".mp3", "sample_rate": 8000, "bit_rate": 64000}, 10, True),
        ("aac", {"suffix": ".m4a", "bit_rate": 192000}, 15, False),
        ("aac 48k", {"suffix": ".m4a", "sample_rate": 48000, "bit_rate": 192000}, 15, False),
        ("vorbis", {"suffix": ".ogg", "bit_rate": 192000}, 10, False),
        ("opus in ogg", {"suffix": ".ogg", "codec": "libopus", "sample_rate": 48000, "bit_rate": 192000}, 15, True),
        ("opus", {"suffix": ".opus", "sample_rate": 48000, "bit_rate": 192000}, 15, True),
        ("webm", {"suffix": ".webm", "sample_rate": 48000, "bit_rate": 192000}, 15, True),
        ("flac in matroska", {"suffix": ".mkv"}, 75, True),
        ("8 kHz", {"suffix": ".wav", "sample_rate": 8000}, 75, True),
        ("192 kHz", {"suffix": ".flac", "sample_rate": 192000, "bits": "24"}, 120, True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_codec_comes_out_aligned_to_the_sample(
    tmp_path: Path, name: str, choices: dict[str, Any], least_db: float, length_exact: bool
) -> None:
    suffix = choices.pop("suffix")
    rate = choices.get("sample_rate", 44100)
    mix = tune(1.5, sample_rate=rate, channels=choices.pop("channels", 2))[:, :-77]
    make_song(tmp_path / f"song{suffix}", samples=mix, **choices)
    facts, heard = decoded(tmp_path / f"song{suffix}")
    assert (facts.sample_rate, facts.channels) == (rate, mix.shape[0])
    assert lag(mix, heard) == 0
    assert snr_db(mix, heard) > least_db
    if length_exact:
        assert facts.samples == mix.shape[1]
    else:  # AAC's edit list counts in milliseconds, FFmpeg's Vorbis encoder in blocks
        assert 0 <= facts.samples - mix.shape[1] <= 128


def _as_itunes_writes_it(data: bytes, priming: int, padding: int, samples: int) -> bytes:
    """An m4a without an edit list, its delay told in a note of iTunes' own."""

    def atom(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    note = f" 00000000 {priming:08X} {padding:08X} {samples:016X}" + " 00000000" * 8
    added = atom(
        b"----",
        atom(b"mean", bytes(4) + b"com.apple.iTunes")
        + atom(b"name", bytes(4) + b"iTunSMPB")
        + atom(b"data", struct.pack(">II", 1, 0) + note.encode()),
    )
    result = bytearray(data.replace(b"edts", b"free"))
    at = result.index(b"ilst") - 4
    end = at + int.from_bytes(result[at : at + 4], "big")
    result[end:end] = added
    for kind in (b"moov", b"udta", b"meta", b"ilst"):
        at = result.index(kind) - 4
        result[at : at + 4] = struct.pack(">I", int.from_bytes(result[at : at + 4], "big") + len(added))
    return bytes(result)


def test_an_m4a_of_itunes_begins_and_ends_to_the_sample(tmp_path: Path) -> None:
    mix = tune(1.5)[:, :-77]
    make_song(tmp_path / "song.m4a", samples=mix, bit_rate=192000, tags={"title": "x"})
    whole = -(-(1024 + mix.shape[1]) // 1024) * 1024
    data = _as_itunes_writes_it((tmp_path / "song.m4a").read_bytes(), 1024, whole - 1024 - mix.shape[1], mix.shape[1])
    (tmp_path / "song.m4a").write_bytes(data)
    facts, heard = decoded(tmp_path / "song.m4a")
    assert lag(mix, heard) == 0
    assert facts.samples == mix.shape[1]


@pytest.mark.parametrize(("channels", "layout"), [(6, "5.1"), (8, "7.1")])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".opus"])
def test_surround_centre_goes_to_both_channels(tmp_path: Path, suffix: str, channels: int, layout: str) -> None:
    rate = 48000 if suffix == ".opus" else 44100
    mix = make_song(tmp_path / f"song{suffix}", seconds=1, channels=channels, sample_rate=rate)
    facts, heard = decoded(tmp_path / f"song{suffix}")
    matrix = downmix_matrix(av.AudioLayout(layout))
    assert matrix is not None
    assert facts.channels == 2
    assert matrix[0, 2] == matrix[1, 2] > 0  # the centre
    assert not matrix[:, 3].any()  # the LFE
    assert matrix[0, 0] == matrix[1, 1] == 1  # the fronts keep their level
    assert snr_db(matrix @ mix, heard) > 15


def test_surround_with_fronts_alone_keeps_its_level(tmp_path: Path) -> None:
    mix = np.concatenate([tune(0.5), silence(0.5, channels=4)])
    make_song(tmp_path / "song.wav", samples=mix, bits="f32")
    assert np.allclose(decoded(tmp_path / "song.wav")[1], mix[:2], atol=1e-6)


def test_many_channels_of_unknown_place_still_make_stereo(tmp_path: Path) -> None:
    mix = make_song(tmp_path / "song.wav", seconds=0.5, channels=64)
    _, heard = decoded(tmp_path / "song.wav")
    assert snr_db(np.stack([mix[0::2].mean(axis=0), mix[1::2].mean(axis=0)]), heard) > 60


@pytest.mark.parametrize("rate", [191_999, 384_000, 7_999])
def test_an_odd_sample_rate_is_brought_to_44100_in_place(tmp_path: Path, rate: int) -> None:
    def wave(count: int, sample_rate: int) -> Samples:
        time_s = np.arange(count) / sample_rate
        swell = np.exp(-(((time_s - 0.5) / 0.15) ** 2))
        return (0.4 * np.sin(2 * np.pi * 440 * time_s) * swell).astype(np.float32)[np.newaxis]

    make_song(tmp_path / "song.wav", samples=wave(rate, rate), sample_rate=rate, bits="f32")
    facts, heard = decoded(tmp_path / "song.wav")
    assert (facts.sample_rate, facts.samples) == (44100, 44100)
    assert snr_db(wave(44100, 44100), heard) > 60


def test_a_rate_and_channels_that_change_on_the_way_are_followed(tmp_path: Path) -> None:
    plain = {"write_xing": "0", "id3v2_version": "0"}
    make_song(tmp_path / "a.mp3", seconds=8, container_options=plain)
    make_song(tmp_path / "b.mp3", seconds=1, sample_rate=32000, channels=1, container_options=plain)
    (tmp_path / "both.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    facts, heard = decoded(tmp_path / "both.mp3")
    assert (facts.sample_rate, facts.channels) == (44100, 2)
    assert 9.0 < facts.duration_s < 9.2
    assert np.array_equal(heard[0, -30000:], heard[1, -30000:])  # the mono part


def test_what_is_not_a_number_becomes_silence(tmp_path: Path) -> None:
    mix = tune(0.5)
    mix[0, 100], mix[1, 200], mix[0, 300] = np.nan, np.inf, -np.inf
    make_song(tmp_path / "song.wav", samples=mix, bits="f32")
    facts, heard = decoded(tmp_path / "song.wav")
    assert heard[0, 100] == heard[1, 200] == heard[0, 300] == 0
    assert np.array_equal(heard, np.nan_to_num(mix, nan=0, posinf=0, neginf=0))
    assert facts.peak < 1


def test_one_sample_is_a_song(tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", samples=np.full((2, 1), 0.5, dtype=np.float32))
    facts, heard = decoded(tmp_path / "song.wav")
    assert facts.samples == 1
    assert heard == pytest.approx(0.5, abs=1e-4)


def test_tags_and_cover_come_along_from_every_container(tmp_path: Path) -> None:
    tags = {"title": "Süß \u202e(live)\x07", "artist": "The Tests", "album": "Seeds"}
    for name in ("song.mp3", "song.flac", "song.m4a"):
        make_song(tmp_path / name, seconds=0.3, tags=tags, cover=True)
        facts, _ = decoded(tmp_path / name)
        assert facts.tags["title"] == "Süß (live)"
        assert (facts.tags["artist"], facts.tags["album"]) == ("The Tests", "Seeds")
        assert facts.cover == cover_jpeg()
    make_song(tmp_path / "song.ogg", seconds=0.3, tags=tags)
    assert decoded(tmp_path / "song.ogg")[0].tags["artist"] == "The Tests"


def test_a_picture_is_not_a_video_and_a_video_gives_its_sound(tmp_path: Path) -> None:
    mix = make_song(tmp_path / "clip.mp4", seconds=1, video=True)
    facts, heard = decoded(tmp_path / "clip.mp4")
    assert lag(mix, heard) == 0
    assert facts.cover is None


def test_decoding_stops_at_duration_limit(tmp_path: Path) -> None:
    make_song(tmp_path / "bomb.flac", samples=silence(120))
    assert (tmp_path / "bomb.flac").stat().st_size < 50_000
    with pytest.raises(TooLong, match=r"2:00 long.*limit is 0:05"):
        decode(tmp_path / "bomb.flac", tmp_path / "raw", max_duration_s=5)
    assert (tmp_path / "raw").stat().st_size < 6 * 44100 * 8


def test_progress_goes_from_nothing_to_everything(tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=3)
    seen: list[float] = []
    decode(tmp_path / "song.wav", tmp_path / "raw", max_duration_s=60, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] < 0.3
    assert seen[-1] == 1
