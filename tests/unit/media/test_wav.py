"""Wav headers with lengths and sample widths that FFmpeg misreads."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from engine.errors import TruncatedAudio
from engine.media.decode import decode
from tests.fixtures.songs import Samples, make_song, tune

RATE = 44100


def read(path: Path) -> Samples:
    facts = decode(path, path.with_suffix(".f32"), max_duration_s=60)
    return np.fromfile(path.with_suffix(".f32"), "<f4").reshape(-1, facts.channels).T


def wav(
    data: bytes,
    *,
    bits: int,
    block: int,
    tag: int = 1,
    valid: int | None = None,
    rate: int | None = None,
    stated_bytes: int | None = None,
) -> bytes:
    """Build a stereo file; `valid` bits make it extensible, `rate` and `stated_bytes` are in its header."""
    fmt = struct.pack(
        "<HHIIHH", tag if valid is None else 0xFFFE, 2, RATE, RATE * block if rate is None else rate, block, bits
    )
    if valid is not None:
        fmt += struct.pack("<HHIH", 22, valid, 3, tag) + bytes.fromhex("000000001000800000aa00389b71")
    size = len(data) if stated_bytes is None else stated_bytes
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", (size + 36) & 0xFFFFFFFF) + b"WAVE" + chunks


SONG = tune(1)
WORDS = (np.rint(SONG.T.astype(np.float64) * (2**23 - 1)).astype(np.int64) << 8).astype("<i4")
IN_32 = WORDS.tobytes()
IN_24 = np.frombuffer(IN_32, np.uint8).reshape(-1, 4)[:, 1:].tobytes()
IN_16 = np.rint(SONG.T * 32767).astype("<i2").tobytes()
FLOATS = (SONG.T * 2**23).astype("<f4").tobytes()

WIDTHS = {
    "24 in 32": wav(IN_32, bits=24, block=8),
    "24 in 32, extensible": wav(IN_32, bits=32, valid=24, block=8),
    "24 in 32, extensible without the container's bits": wav(IN_32, bits=24, valid=24, block=8),
    "20 in 32": wav(IN_32, bits=32, valid=20, block=8),
    "20 in 24": wav(IN_24, bits=24, valid=20, block=6),
    "16 in 24": wav(IN_24, bits=24, valid=16, block=6),
    "24 floats of Cool Edit": wav(FLOATS, bits=24, block=8),
    "24": wav(IN_24, bits=24, block=6),
    "16, wrong block": wav(IN_16, bits=16, block=8),
    "16, extensible, wrong block": wav(IN_16, bits=16, valid=16, block=2),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_every_width_of_wav_samples_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "song.wav").write_bytes(WIDTHS[name])
    actual = read(tmp_path / "song.wav")
    assert actual.shape == SONG.shape
    assert np.abs(actual - SONG).max() < 1e-4


@pytest.mark.parametrize("rate", [0, 1, RATE, 11025, 0xFFFFFFFF])
def test_wav_with_wrong_byte_rate_is_not_truncated(tmp_path: Path, rate: int) -> None:
    (tmp_path / "song.wav").write_bytes(wav(IN_16, bits=16, block=4, rate=rate))
    assert read(tmp_path / "song.wav").shape[1] == RATE


@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav", "pcm_alaw", "pcm_mulaw"])
@pytest.mark.parametrize("channels", [1, 2])
def test_compressed_wav_is_not_truncated(tmp_path: Path, codec: str, channels: int) -> None:
    make_song(tmp_path / "song.wav", codec=codec, channels=channels, seconds=8)
    assert read(tmp_path / "song.wav").shape[1] == pytest.approx(8 * RATE, abs=4096)


@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav", "pcm_alaw", "pcm_s24le", "libmp3lame"])
def test_cut_wav_of_any_codec_is_refused(tmp_path: Path, codec: str) -> None:
    make_song(tmp_path / "song.wav", codec=codec, seconds=8, container="wav")
    data = (tmp_path / "song.wav").read_bytes()
    (tmp_path / "song.wav").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(TruncatedAudio):
        read(tmp_path / "song.wav")


@pytest.mark.parametrize(
    "stated_bytes", [0, 0x7FFFFFFF, 0x7FFFFFD3, 0x7FFFF000, 0x80000000, 0x7FFFFFFE, 0xFFFFFFFF, 0xFFFFFFDB, 0xFFFFFF00]
)
@pytest.mark.parametrize("block", [4, 6])
def test_wav_written_to_pipe_is_read_to_its_end(tmp_path: Path, stated_bytes: int, block: int) -> None:
    data = IN_16 if block == 4 else IN_24
    (tmp_path / "song.wav").write_bytes(wav(data, bits=block * 4, block=block, stated_bytes=stated_bytes))
    assert read(tmp_path / "song.wav").shape[1] == RATE


def test_wav_that_states_three_gigabytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(wav(IN_16, bits=16, block=4, stated_bytes=3 << 30))
    with pytest.raises(TruncatedAudio):
        read(tmp_path / "song.wav")


@pytest.mark.parametrize("frames", [0x7F000000 // 4, 0x7FFFFFFF // 4])
def test_aiff_written_to_pipe_is_read_to_its_end(tmp_path: Path, frames: int) -> None:
    make_song(tmp_path / "song.aiff", container="aiff", codec="pcm_s16be", seconds=1)
    data = bytearray((tmp_path / "song.aiff").read_bytes())
    at = data.index(b"COMM") + 10
    data[at : at + 4] = frames.to_bytes(4, "big")
    at = data.index(b"SSND") + 4
    data[at : at + 4] = (frames * 4 + 8).to_bytes(4, "big")
    (tmp_path / "song.aiff").write_bytes(data)
    assert read(tmp_path / "song.aiff").shape[1] == RATE
