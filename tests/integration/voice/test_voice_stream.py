"""The player of a voice channel: real stem files, a real child process, its Opus decoded and compared."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from engine.errors import NotFound
from engine.media.encode import StemEncoder
from engine.media.samples import Samples
from engine.mixes.reader import StemReader
from engine.service.service import VersionRequest
from engine.voice.protocol import SILENCE, Command, Packet, PacketKind, PacketParser
from engine.voice.song import Song
from engine.voice.stream import VoiceStream, start_stream
from tests.fixtures.mix_server import open_mix_server
from tests.fixtures.planted_results import OWNER, plant
from tests.fixtures.songs import tune
from tests.fixtures.voice_sound import OPUS_RATE, decoded, resampled, snr_db

pytestmark = pytest.mark.timeout(600)
RATE = 44100
SECONDS = 4
STEMS: dict[str, Samples] = {name: 0.3 * tune(SECONDS, seed=seed) for seed, name in enumerate(("vocals", "drums"))}
LEAD_SAMPLES = 312  # of an Opus encoder


def write_stems(folder: Path, kind: str = "flac") -> dict[str, Path]:
    paths = {}
    for name, samples in STEMS.items():
        paths[name] = folder / f"{name}.{kind}"
        with StemEncoder(paths[name], format=kind, sample_rate=RATE) as encoder:
            encoder.write(samples)
    return paths


def open_stream(
    stems: dict[str, Path], *, gain_db: float = 0.0, start_s: float = 0.0, tempo: float = 1.0
) -> VoiceStream:
    return start_stream(stems, gain_db=gain_db, duration_s=SECONDS, start_s=start_s, tempo=tempo, niceness=0)


@contextmanager
def opened(stems: dict[str, Path], *, start_s: float = 0.0) -> Iterator[Song]:
    """Open the song of a child process in this process."""
    song = Song([os.open(path, os.O_RDONLY) for path in stems.values()], level=1.0, start_s=start_s)
    with closing(song):
        yield song


def frames_until(stream: VoiceStream, is_over: Callable[[], bool], *, timeout_s: float = 300) -> list[bytes]:
    """Return the frames until `is_over`, without the silence of a player that is late."""
    frames, deadline = [], time.monotonic() + timeout_s
    while not is_over():
        assert time.monotonic() < deadline, f"still at {stream.position_s} s"
        missed, position_s = stream.missed_frames, stream.position_s
        frame = stream.read_frame()
        if stream.missed_frames > missed or (frame == SILENCE and position_s == stream.position_s):
            time.sleep(0.002)
        else:
            frames.append(frame)
    return frames


@pytest.mark.parametrize("kind", ["mp3", "flac", "wav"])
def test_seek_finds_the_sample(tmp_path: Path, kind: str) -> None:
    path = write_stems(tmp_path, kind)["vocals"]
    reader = StemReader(os.open(path, os.O_RDONLY))
    whole = reader.read(SECONDS * RATE)
    for sample in (70_000, 123, 0, 100_001, whole.shape[1] - 50):
        reader.seek(sample)
        found = reader.read(2000)
        wanted = whole[:, sample : sample + 2000]
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < 1e-3, (kind, sample)
    reader.seek(whole.shape[1] + RATE)
    assert reader.read(10).shape[1] == 0
    reader.close()


async def test_frames_are_the_song(tmp_path: Path) -> None:
    stream = open_stream(write_stems(tmp_path, "mp3"))
    frames = await asyncio.to_thread(frames_until, stream, lambda: stream.has_ended)
    wanted = resampled(STEMS["vocals"] + STEMS["drums"])
    sound = decoded(frames)
    assert abs(sound.shape[1] / OPUS_RATE - SECONDS) < 0.1
    assert snr_db(sound[:, 4800:], wanted[:, 4800 - LEAD_SAMPLES :]) > 20
    assert abs(stream.position_s - SECONDS) < 0.03 and not stream.has_failed
    await stream.close()


async def test_common_gain_of_the_stems_is_undone(tmp_path: Path) -> None:
    stream = open_stream(write_stems(tmp_path), gain_db=6.0206)
    frames = await asyncio.to_thread(frames_until, stream, lambda: stream.has_ended)
    wanted = 0.5 * resampled(STEMS["vocals"] + STEMS["drums"])
    assert snr_db(decoded(frames)[:, 4800:], wanted[:, 4800 - LEAD_SAMPLES :]) > 20
    await stream.close()


async def test_toggled_stem_is_silent_after_the_packets_ahead(tmp_path: Path) -> None:
    stream = open_stream(write_stems(tmp_path))
    before = await asyncio.to_thread(frames_until, stream, lambda: stream.position_s > 1)
    stream.set_gains({"drums": 0.0})
    after = await asyncio.to_thread(frames_until, stream, lambda: stream.has_ended)
    sound = decoded(before + after)
    changed = len(before) * 960
    both, alone = resampled(STEMS["vocals"] + STEMS["drums"]), resampled(STEMS["vocals"])
    assert snr_db(sound[:, 4800:changed], both[:, 4800 - LEAD_SAMPLES :]) > 20
    heard = changed + round(0.3 * OPUS_RATE)
    assert snr_db(sound[:, heard:], alone[:, heard - LEAD_SAMPLES :]) > 20
    await stream.close()


async def test_start_and_seek_play_the_given_position(tmp_path: Path) -> None:
    stream = open_stream(write_stems(tmp_path), start_s=2.0)
    await asyncio.to_thread(frames_until, stream, lambda: stream.position_s > 2.1)
    stream.seek(1.0)
    await asyncio.to_thread(frames_until, stream, lambda: 1.0 <= stream.position_s < 1.1)
    after = await asyncio.to_thread(frames_until, stream, lambda: stream.has_ended)
    wanted = resampled(STEMS["vocals"] + STEMS["drums"])[:, round(1.25 * OPUS_RATE) :]
    assert snr_db(decoded(after)[:, 9600:], wanted) > 20  # without the fade and the decoder's first frames
    await stream.close()


async def test_pause_keeps_the_position(tmp_path: Path) -> None:
    stream = open_stream(write_stems(tmp_path))
    await asyncio.to_thread(frames_until, stream, lambda: stream.position_s > 0.5)
    stream.set_paused(True)
    await asyncio.to_thread(frames_until, stream, lambda: stream.is_paused)
    paused_at_s = stream.position_s
    assert stream.read_frame() == SILENCE and 0.5 < paused_at_s < 1
    stream.set_paused(False)
    frames = await asyncio.to_thread(frames_until, stream, lambda: stream.has_ended)
    assert abs(len(frames) * 0.02 - (SECONDS - paused_at_s)) < 0.3
    await stream.close()


def test_loop_repeats_a_part(tmp_path: Path) -> None:
    with opened(write_stems(tmp_path), start_s=1.0) as song:
        song.apply(Command(loop_s=(1.0, 1.5)))
        positions = [song.next_packet().position_s for _ in range(200)]
        assert min(positions) == 1.0 and max(positions) < 1.6
        assert sum(later < earlier for earlier, later in itertools.pairwise(positions)) >= 6
        song.apply(Command(loop_s=(SECONDS - 0.5, SECONDS + 9.0), seek_s=SECONDS - 0.5))
        kinds = [song.next_packet().kind for _ in range(200)]
        assert set(kinds) == {PacketKind.AUDIO}
        song.apply(Command(loop_s=(0.0, 0.0)))
        assert PacketKind.ENDED in [song.next_packet().kind for _ in range(100)]


def test_changes_do_not_click(tmp_path: Path) -> None:
    """The largest step between two samples of the changed sum is not above that of the steady one."""
    samples = (0.5 * np.sin(2 * np.pi * 220 * np.arange(SECONDS * RATE) / RATE)).astype(np.float32)
    path = tmp_path / "sine.wav"
    with StemEncoder(path, format="wav", sample_rate=RATE) as encoder:
        encoder.write(np.stack([samples, samples]))
    with opened({"sine": path}) as song:
        for _ in range(20):
            song.next_packet()
        sound = []
        for command in (Command(gains=[0.0]), Command(gains=[1.0]), Command(seek_s=2.003), Command(is_paused=True)):
            song.apply(command)
            sound += [song.next_packet() for _ in range(15)]
    played = decoded([packet.frame for packet in sound if packet.kind is PacketKind.AUDIO])[0]
    steady = 0.5 * 2 * np.pi * 220 / OPUS_RATE
    assert np.abs(np.diff(played[960:])).max() < 1.5 * steady


async def test_killed_player_fails_and_another_can_play(tmp_path: Path) -> None:
    stems = write_stems(tmp_path)
    stream = open_stream(stems)
    await asyncio.to_thread(frames_until, stream, lambda: stream.position_s > 0.2)
    os.kill(stream.pid, signal.SIGKILL)
    await asyncio.to_thread(frames_until, stream, lambda: stream.has_failed)
    assert stream.read_frame() == SILENCE
    stream.set_volume(0.5)
    await stream.close()
    again = open_stream(stems, start_s=stream.position_s)
    await asyncio.to_thread(frames_until, again, lambda: again.position_s > 0.5)
    await again.close()


async def test_damaged_stem_fails(tmp_path: Path) -> None:
    (tmp_path / "bad.mp3").write_bytes(b"no audio" * 1000)
    stream = open_stream({"vocals": tmp_path / "bad.mp3"})
    await asyncio.to_thread(frames_until, stream, lambda: stream.has_failed)
    await stream.close()
    await stream.close()


def test_packets_are_parsed_from_any_pieces() -> None:
    packets = [Packet(PacketKind.AUDIO, 0.02 * index, bytes(index)) for index in range(30)]
    data = b"".join(packet.encode() for packet in packets)
    for size in (1, 7, 1000):
        parser = PacketParser()
        found = [each for at in range(0, len(data), size) for each in parser.feed(data[at : at + size])]
        assert found == packets
    with pytest.raises(ValueError):
        list(PacketParser().feed(b"\xff" * (1 << 17)))


async def test_service_plays_a_job_and_a_version(tmp_path: Path) -> None:
    async with open_mix_server(tmp_path) as server:
        job_id = await plant(tmp_path, STEMS, title="Sunny", kind="wav")
        stream = await server.service.play(job_id, VersionRequest(), start_s=1.0, by=OWNER)
        await asyncio.to_thread(frames_until, stream, lambda: stream.position_s > 1.5)
        await stream.close()
        slower = await server.service.play(job_id, VersionRequest(tempo=0.5, key=-2.0), start_s=1.0, by=OWNER)
        frames = await asyncio.to_thread(frames_until, slower, lambda: slower.has_ended)
        assert abs(len(frames) * 0.02 - (SECONDS - 1) * 2) < 0.1 and abs(slower.position_s - SECONDS) < 0.05
        slower.seek(3.0)
        await asyncio.to_thread(frames_until, slower, lambda: 3.0 <= slower.position_s < 3.2)
        await slower.close()
        with pytest.raises(NotFound):
            await server.service.play("no job", VersionRequest(), by=OWNER)
