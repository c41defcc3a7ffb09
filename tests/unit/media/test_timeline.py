"""Late starts, gaps and chained files: audio stays at the time of its timestamps."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.errors import TooLong, TruncatedAudio
from engine.media.decode import RawAudio, decode
from engine.media.timeline import Timeline
from tests.fixtures.songs import Samples, make_song, tune

RATE = 48000
SOURCES = {"opus": "song.opus", "aac": "song.m4a", "vorbis": "song.ogg", "flac": "song.flac", "mp3": "song.mp3"}
TRACKS = [
    ("opus", "ogg"),
    ("opus", "webm"),
    ("opus", "mp4"),
    ("aac", "matroska"),
    ("aac", "mp4"),
    ("aac", "mov"),
    ("vorbis", "ogg"),
    ("vorbis", "webm"),
    ("flac", "ogg"),
    ("flac", "matroska"),
    ("mp3", "matroska"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES.values():
        make_song(folder / name, seconds=8, sample_rate=RATE, bit_rate=192000)
    return folder


def remux(
    source: Path,
    target: Path,
    container: str,
    *,
    late_s: float = 0.0,
    lost_s: tuple[float, float] | None = None,
    jump_s: tuple[float, float] | None = None,
) -> Path:
    """Copy the packets of `source`: start `late_s` later, without those in `lost_s`; `jump_s`: (at, by)."""
    with av.open(str(source)) as original, av.open(str(target), "w", format=container) as output:
        stream = output.add_stream_from_template(original.streams.audio[0])
        for packet in original.demux(audio=0):
            if packet.pts is None or packet.time_base is None:
                continue
            at_s = float(packet.pts * packet.time_base)
            if lost_s is not None and lost_s[0] <= at_s < lost_s[1]:
                continue
            shift_s = late_s + (jump_s[1] if jump_s is not None and at_s >= jump_s[0] else 0)
            packet.pts += round(shift_s / packet.time_base)
            packet.dts = packet.pts
            packet.stream = stream
            output.mux(packet)
    return target


def decoded(path: Path, max_duration_s: float = 60) -> tuple[RawAudio, Samples]:
    raw = path.with_suffix(".f32")
    facts = decode(path, raw, max_duration_s=max_duration_s)
    return facts, np.fromfile(raw, "<f4").reshape(-1, facts.channels).T


def loudest(samples: Samples, start_s: float, stop_s: float) -> float:
    return float(np.abs(samples[:, round(start_s * RATE) : round(stop_s * RATE)]).max())


@pytest.mark.parametrize("late_s", [0.6, 2.0, 100.0])
@pytest.mark.parametrize(("codec", "container"), TRACKS)
def test_late_start_is_not_truncated(tmp_path: Path, sources: Path, codec: str, container: str, late_s: float) -> None:
    path = remux(sources / SOURCES[codec], tmp_path / "late", container, late_s=late_s)
    facts, actual = decoded(path)
    assert facts.duration_s == pytest.approx(8, abs=0.05)
    assert loudest(actual, 0.1, 0.4) > 0.1


@pytest.mark.parametrize("lost_s", [(3.0, 6.0), (3.0, 3.7), (3.0, 3.06)])
@pytest.mark.parametrize(("codec", "container"), TRACKS)
def test_gap_in_timestamps_becomes_silence(
    tmp_path: Path, sources: Path, codec: str, container: str, lost_s: tuple[float, float]
) -> None:
    _, whole = decoded(remux(sources / SOURCES[codec], tmp_path / "whole", container))
    facts, actual = decoded(remux(sources / SOURCES[codec], tmp_path / "gap", container, lost_s=lost_s))
    assert facts.samples == pytest.approx(whole.shape[1], abs=RATE // 500)
    if (codec, container) == ("flac", "ogg"):  # its packets have no timestamps, only the pages
        return
    after = slice(round((lost_s[1] + 0.3) * RATE), round(7.8 * RATE))
    reference, rest = whole[0, after], actual[0, after]
    products = [float(np.dot(np.roll(reference, shift)[200:-200], rest[200:-200])) for shift in range(-150, 151)]
    assert abs(int(np.argmax(products)) - 150) <= RATE // 500
    if lost_s[1] - lost_s[0] > 0.5:
        assert loudest(actual, lost_s[0] + 0.15, lost_s[1] - 0.05) < 0.01


@pytest.mark.parametrize(("codec", "container"), TRACKS)
def test_absurd_gap_is_not_filled(tmp_path: Path, sources: Path, codec: str, container: str) -> None:
    path = remux(sources / SOURCES[codec], tmp_path / "jump", container, jump_s=(4, 3600))
    assert decoded(path)[0].duration_s == pytest.approx(8, abs=0.05)


def test_silence_of_gaps_counts_towards_the_limit(tmp_path: Path, sources: Path) -> None:
    path = remux(sources / "song.opus", tmp_path / "gap", "webm", jump_s=(4, 20))
    assert decoded(path, max_duration_s=28)[0].duration_s == pytest.approx(28, abs=0.1)
    with pytest.raises(TooLong, match=r"0:28 long.*limit is 0:25"):
        decoded(path, max_duration_s=25)


@pytest.mark.parametrize(("codec", "container"), [("aac", "matroska"), ("opus", "webm")])
def test_truncated_late_track_is_refused(tmp_path: Path, sources: Path, codec: str, container: str) -> None:
    path = remux(sources / SOURCES[codec], tmp_path / "late", container, late_s=2.0)
    with av.open(str(path)) as original:
        at = [packet.pos for packet in original.demux(audio=0) if packet.pos is not None][-80]
    path.write_bytes(path.read_bytes()[:at])
    with pytest.raises(TruncatedAudio):
        decoded(path)


def frame(at_samples: int | None, samples: int = 960) -> av.AudioFrame:
    result = av.AudioFrame(format="fltp", layout="stereo", samples=samples)
    result.sample_rate = RATE
    result.pts = at_samples
    result.time_base = Fraction(1, RATE)
    return result


def gaps_of(positions: list[int | None]) -> Iterator[float]:
    timeline = Timeline(longest_gap_s=600)
    for position in positions:
        yield timeline.gap_before(frame(position))


def test_silence_for_jitter_does_not_add_up() -> None:
    chance = np.random.default_rng(0)
    jittered = [960 * number + int(chance.integers(-480, 480)) for number in range(3000)]
    assert sum(gaps_of([0, *jittered[1:]])) <= 0.02


def test_slow_drift_of_timestamps_adds_no_silence() -> None:
    assert sum(gaps_of([round(960 * 1.001 * number) for number in range(3000)])) == 0


def test_frames_without_timestamps_follow_each_other() -> None:
    assert list(gaps_of([None, None, None])) == [0, 0, 0]
    assert sum(gaps_of([0, None, None, 2880, 3840 + 4800])) == pytest.approx(0.1)


def test_overlapping_frames_are_kept_and_add_no_silence() -> None:
    assert sum(gaps_of([0, 480, 1440, 2400])) == 0


def test_timestamps_that_restart_are_a_new_clock() -> None:
    first = [960 * number for number in range(20)]
    assert sum(gaps_of([*first, *first, 960 * 20 + 4800])) == pytest.approx(0.1)


def test_negative_timestamps_are_a_valid_start() -> None:
    assert sum(gaps_of([-960, 0, 960])) == 0


CHAINS = {
    "same format": [("vorbis", 44100, 2), ("vorbis", 44100, 2)],
    "stereo, then mono": [("libopus", 48000, 2), ("libopus", 48000, 1)],
    "mono, then stereo": [("libopus", 48000, 1), ("libopus", 48000, 2)],
    "another rate": [("vorbis", 44100, 2), ("vorbis", 22050, 2)],
    "another codec": [("vorbis", 44100, 2), ("libopus", 48000, 2), ("flac", 44100, 1)],
}


@pytest.mark.parametrize("name", CHAINS)
def test_every_link_of_a_chained_ogg_is_read(tmp_path: Path, name: str) -> None:
    data, parts = b"", []
    for seed, (codec, rate, channels) in enumerate(CHAINS[name]):
        part = tmp_path / f"{seed}.ogg"
        make_song(part, codec=codec, sample_rate=rate, channels=channels, seconds=2, seed=seed, bit_rate=128000)
        data += part.read_bytes()
        parts.append(decoded(part))
    (tmp_path / "chain.ogg").write_bytes(data)
    facts, actual = decoded(tmp_path / "chain.ogg")
    assert (facts.sample_rate, facts.channels) == CHAINS[name][0][1:]
    length_s = sum(part.duration_s for part, _ in parts)
    assert facts.duration_s == pytest.approx(length_s, abs=0.002)
    first = parts[0][1]
    assert np.allclose(actual[:, : first.shape[1]], first, atol=1e-6)
    at = first.shape[1] + facts.sample_rate // 10
    level = float(np.square(actual[:, at : at + facts.sample_rate]).mean())
    assert level == pytest.approx(float(np.square(parts[1][1][:, parts[1][0].sample_rate // 10 :]).mean()), rel=0.3)


def test_truncated_chained_ogg_is_refused(tmp_path: Path) -> None:
    make_song(tmp_path / "a.ogg", seconds=2)
    data = (tmp_path / "a.ogg").read_bytes()
    (tmp_path / "chain.ogg").write_bytes(data + data[: len(data) * 2 // 3])
    with pytest.raises(TruncatedAudio):
        decoded(tmp_path / "chain.ogg")


def ogg_crc(page: bytes) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize("container", ["ogg", "webm"])
def test_opus_with_large_pre_skip_is_not_truncated(tmp_path: Path, sources: Path, container: str) -> None:
    path = remux(sources / "song.opus", tmp_path / "song", container)
    data = bytearray(path.read_bytes())
    at = data.index(b"OpusHead") + 10
    data[at : at + 2] = (65535).to_bytes(2, "little")
    if container == "ogg":
        size = 28 + data[27]
        data[22:26] = bytes(4)
        data[22:26] = ogg_crc(bytes(data[:size])).to_bytes(4, "little")
    path.write_bytes(data)
    facts, _ = decoded(path)
    assert 8 - 65535 / 48000 - 0.02 <= facts.duration_s <= 8.01


def test_gap_in_a_mono_track_is_filled(tmp_path: Path) -> None:
    mix = tune(2, sample_rate=RATE, channels=1)
    make_song(tmp_path / "mono.opus", samples=mix, sample_rate=RATE)
    facts, actual = decoded(remux(tmp_path / "mono.opus", tmp_path / "gap", "webm", jump_s=(1, 1)))
    assert facts.channels == 1
    assert actual.shape[1] == pytest.approx(3 * RATE, abs=RATE // 100)
