"""Decoded samples are aligned and have the right level, for every codec and layout."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from engine.errors import TooLong
from engine.media.decode import RawAudio, decode, probe
from engine.media.limits import MediaLimits
from engine.media.samples import downmix_matrix
from tests.fixtures.songs import Samples, cover_jpeg, make_song, silence, tune


def decoded(path: Path, max_duration_s: float = 60) -> tuple[RawAudio, Samples]:
    raw = path.with_suffix(".f32")
    facts = decode(path, raw, max_duration_s=max_duration_s)
    samples = np.fromfile(raw, "<f4").reshape(-1, facts.channels).T
    assert samples.shape[1] == facts.samples
    return facts, samples


def lag(reference: Samples, actual: Samples) -> int:
    """Return by how many samples `actual` is later than `reference`."""
    count = min(reference.shape[1], actual.shape[1])
    size = 1 << (2 * count).bit_length()
    spectrum = np.fft.rfft(actual[0, :count], size) * np.conj(np.fft.rfft(reference[0, :count], size))
    best = int(np.argmax(np.fft.irfft(spectrum, size)))
    return best if best < size // 2 else best - size


def snr_db(reference: Samples, actual: Samples) -> float:
    count = min(reference.shape[1], actual.shape[1])
    error = actual[:, :count] - reference[:, :count]
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
def test_every_codec_is_aligned_to_the_sample(
    tmp_path: Path, name: str, choices: dict[str, Any], least_db: float, length_exact: bool
) -> None:
    suffix = choices.pop("suffix")
    rate = choices.get("sample_rate", 44100)
    mix = tune(1.5, sample_rate=rate, channels=choices.pop("channels", 2))[:, :-77]
    make_song(tmp_path / f"song{suffix}", samples=mix, **choices)
    facts, actual = decoded(tmp_path / f"song{suffix}")
    assert (facts.sample_rate, facts.channels) == (rate, mix.shape[0])
    assert lag(mix, actual) == 0
    assert snr_db(mix, actual) > least_db
    if length_exact:
        assert facts.samples == mix.shape[1]
    else:  # AAC's edit list counts in milliseconds, FFmpeg's Vorbis encoder in blocks
        assert 0 <= facts.samples - mix.shape[1] <= 128


def _with_itunes_comment(data: bytes, priming: int, padding: int, samples: int) -> bytes:
    """Return an m4a without an edit list, with its delay in iTunes' comment."""

    def atom(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    comment = f" 00000000 {priming:08X} {padding:08X} {samples:016X}" + " 00000000" * 8
    added = atom(
        b"----",
        atom(b"mean", bytes(4) + b"com.apple.iTunes")
        + atom(b"name", bytes(4) + b"iTunSMPB")
        + atom(b"data", struct.pack(">II", 1, 0) + comment.encode()),
    )
    result = bytearray(data.replace(b"edts", b"free"))
    at = result.index(b"ilst") - 4
    end = at + int.from_bytes(result[at : at + 4], "big")
    result[end:end] = added
    for kind in (b"moov", b"udta", b"meta", b"ilst"):
        at = result.index(kind) - 4
        result[at : at + 4] = struct.pack(">I", int.from_bytes(result[at : at + 4], "big") + len(added))
    return bytes(result)


def test_itunes_m4a_is_trimmed_to_the_sample(tmp_path: Path) -> None:
    mix = tune(1.5)[:, :-77]
    make_song(tmp_path / "song.m4a", samples=mix, bit_rate=192000, tags={"title": "x"})
    whole = -(-(1024 + mix.shape[1]) // 1024) * 1024
    data = _with_itunes_comment((tmp_path / "song.m4a").read_bytes(), 1024, whole - 1024 - mix.shape[1], mix.shape[1])
    (tmp_path / "song.m4a").write_bytes(data)
    facts, actual = decoded(tmp_path / "song.m4a")
    assert lag(mix, actual) == 0
    assert facts.samples == mix.shape[1]


@pytest.mark.parametrize(("channels", "layout"), [(6, "5.1"), (8, "7.1")])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".opus"])
def test_surround_centre_goes_to_both_channels(tmp_path: Path, suffix: str, channels: int, layout: str) -> None:
    rate = 48000 if suffix == ".opus" else 44100
    mix = make_song(tmp_path / f"song{suffix}", seconds=1, channels=channels, sample_rate=rate)
    facts, actual = decoded(tmp_path / f"song{suffix}")
    matrix = downmix_matrix(av.AudioLayout(layout))
    assert matrix is not None
    assert facts.channels == 2
    assert matrix[0, 2] == matrix[1, 2] > 0  # the centre
    assert not matrix[:, 3].any()  # the LFE
    assert matrix[0, 0] == matrix[1, 1] == 1  # the fronts keep their level
    assert snr_db(matrix @ mix, actual) > 15


def test_surround_with_fronts_alone_keeps_its_level(tmp_path: Path) -> None:
    mix = np.concatenate([tune(0.5), silence(0.5, channels=4)])
    make_song(tmp_path / "song.wav", samples=mix, bits="f32")
    assert np.allclose(decoded(tmp_path / "song.wav")[1], mix[:2], atol=1e-6)


def test_64_unknown_channels_are_mixed_to_stereo(tmp_path: Path) -> None:
    mix = make_song(tmp_path / "song.wav", seconds=0.5, channels=64)
    _, actual = decoded(tmp_path / "song.wav")
    assert snr_db(np.stack([mix[0::2].mean(axis=0), mix[1::2].mean(axis=0)]), actual) > 60


@pytest.mark.parametrize("rate", [191_999, 384_000, 7_999])
def test_unusual_sample_rate_is_converted_to_44100(tmp_path: Path, rate: int) -> None:
    def wave(count: int, sample_rate: int) -> Samples:
        time_s = np.arange(count) / sample_rate
        swell = np.exp(-(((time_s - 0.5) / 0.15) ** 2))
        return (0.4 * np.sin(2 * np.pi * 440 * time_s) * swell).astype(np.float32)[np.newaxis]

    make_song(tmp_path / "song.wav", samples=wave(rate, rate), sample_rate=rate, bits="f32")
    facts, actual = decoded(tmp_path / "song.wav")
    assert (facts.sample_rate, facts.samples) == (44100, 44100)
    assert snr_db(wave(44100, 44100), actual) > 60


def test_change_of_rate_and_channels_is_followed(tmp_path: Path) -> None:
    plain = {"write_xing": "0", "id3v2_version": "0"}
    make_song(tmp_path / "a.mp3", seconds=8, container_options=plain)
    make_song(tmp_path / "b.mp3", seconds=1, sample_rate=32000, channels=1, container_options=plain)
    (tmp_path / "both.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    facts, actual = decoded(tmp_path / "both.mp3")
    assert (facts.sample_rate, facts.channels) == (44100, 2)
    assert 9.0 < facts.duration_s < 9.2
    assert np.array_equal(actual[0, -30000:], actual[1, -30000:])  # the mono part


def test_nan_and_infinity_become_silence(tmp_path: Path) -> None:
    mix = tune(0.5)
    mix[0, 100], mix[1, 200], mix[0, 300] = np.nan, np.inf, -np.inf
    make_song(tmp_path / "song.wav", samples=mix, bits="f32")
    facts, actual = decoded(tmp_path / "song.wav")
    assert actual[0, 100] == actual[1, 200] == actual[0, 300] == 0
    assert np.array_equal(actual, np.nan_to_num(mix, nan=0, posinf=0, neginf=0))
    assert facts.peak < 1


def test_file_of_one_sample_is_decoded(tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", samples=np.full((2, 1), 0.5, dtype=np.float32))
    facts, actual = decoded(tmp_path / "song.wav")
    assert facts.samples == 1
    assert actual == pytest.approx(0.5, abs=1e-4)


def test_tags_and_cover_are_read_from_every_container(tmp_path: Path) -> None:
    tags = {"title": "Süß \u202e(live)\x07", "artist": "The Tests", "album": "Seeds"}
    for name in ("song.mp3", "song.flac", "song.m4a"):
        make_song(tmp_path / name, seconds=0.3, tags=tags, cover=True)
        facts, _ = decoded(tmp_path / name)
        assert facts.tags["title"] == "Süß (live)"
        assert (facts.tags["artist"], facts.tags["album"]) == ("The Tests", "Seeds")
        assert facts.cover == cover_jpeg()
    make_song(tmp_path / "song.ogg", seconds=0.3, tags=tags)
    assert decoded(tmp_path / "song.ogg")[0].tags["artist"] == "The Tests"


def test_audio_of_video_is_decoded(tmp_path: Path) -> None:
    mix = make_song(tmp_path / "clip.mp4", seconds=1, video=True)
    facts, actual = decoded(tmp_path / "clip.mp4")
    assert lag(mix, actual) == 0
    assert facts.cover is None


def test_decoding_stops_at_duration_limit(tmp_path: Path) -> None:
    make_song(tmp_path / "bomb.flac", samples=silence(120))
    assert (tmp_path / "bomb.flac").stat().st_size < 50_000
    with pytest.raises(TooLong, match=r"2:00 long.*limit is 0:05"):
        decode(tmp_path / "bomb.flac", tmp_path / "raw", max_duration_s=5)
    assert (tmp_path / "raw").stat().st_size < 6 * 44100 * 8


def test_progress_rises_to_1(tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=3)
    seen: list[float] = []
    decode(tmp_path / "song.wav", tmp_path / "raw", max_duration_s=60, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] < 0.3
    assert seen[-1] == 1


def test_audio_hash_is_that_of_the_samples(tmp_path: Path) -> None:
    mix = tune(seconds=1)
    make_song(tmp_path / "song.wav", samples=mix, tags={"title": "Sunny"})
    make_song(tmp_path / "song.flac", samples=mix)
    make_song(tmp_path / "mono.wav", samples=mix[:1])
    make_song(tmp_path / "slow.wav", samples=mix, sample_rate=48000)
    changed = mix.copy()
    changed[1, -1] += 0.01
    make_song(tmp_path / "changed.wav", samples=changed)
    names = ("song.wav", "song.flac", "mono.wav", "slow.wav", "changed.wav")
    hashes = {name: decoded(tmp_path / name)[0].audio_hash for name in names}
    assert hashes["song.wav"] == hashes["song.flac"] and len(set(hashes.values())) == 4
    limits = MediaLimits(max_bytes=10**9, max_duration_s=60, timeout_s=30, memory_bytes=10**10)
    assert {name: probe(tmp_path / name, limits).audio_hash for name in names} == hashes, "the probe finds the same"
