"""Synthetic songs as real audio files, for the tests of every room.

    mix = make_song(tmp_path / "song.mp3", seconds=3, tags={"title": "Sunny"}, cover=True)

The suffix chooses container and codec; `codec`, `container` and `bits` override. What comes back is what was put in,
before any lossy codec. Everything is seeded: the same arguments make the same samples.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

Samples = NDArray[np.float32]

BY_SUFFIX: dict[str, tuple[str, str]] = {
    ".mp3": ("mp3", "libmp3lame"),
    ".wav": ("wav", "pcm_s16le"),
    ".flac": ("flac", "flac"),
    ".m4a": ("ipod", "aac"),
    ".mp4": ("mp4", "aac"),
    ".ogg": ("ogg", "vorbis"),
    ".opus": ("opus", "libopus"),
    ".webm": ("webm", "libopus"),
    ".mkv": ("matroska", "flac"),
}
_PCM_BY_BITS = {"16": "pcm_s16le", "24": "pcm_s24le", "32": "pcm_s32le", "f32": "pcm_f32le", "f64": "pcm_f64le"}
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def tune(seconds: float = 2.0, *, sample_rate: int = 44100, channels: int = 2, seed: int = 0) -> Samples:
    """Beats, a bass, two chords and a little noise: (channels, samples), peak about 0.5. Each channel has its own
    phases, so that swapped, shifted and mixed channels can be told apart."""
    count = round(seconds * sample_rate)
    rng = np.random.default_rng(seed)
    time_s = np.arange(count) / sample_rate
    result = np.empty((channels, count), dtype=np.float32)
    hits = np.exp(-40.0 * (time_s % 0.25))
    for channel in range(channels):
        phase = rng.uniform(0, 2 * math.pi, 4)
        sound = 0.20 * np.sin(2 * math.pi * 55 * time_s + phase[0])
        for semitone, part in ((0, 1), (4, 2), (7, 3)):
            pitch = 220 * 2 ** (semitone / 12) * np.where(time_s % 2 < 1, 1, 0.75)
            sound += 0.05 * np.sin(2 * math.pi * pitch * time_s + phase[part])
        sound += hits * rng.normal(0, 0.08, count)
        result[channel] = np.clip(sound, -0.6, 0.6)
    return result


def silence(seconds: float, *, sample_rate: int = 44100, channels: int = 2) -> Samples:
    return np.zeros((channels, round(seconds * sample_rate)), dtype=np.float32)


def cover_jpeg(size: int = 64) -> bytes:
    """A small picture, as it would be attached to a track."""
    picture = Image.new("RGB", (size, size), (180, 40, 90))
    out = io.BytesIO()
    picture.save(out, "JPEG")
    return out.getvalue()


def make_song(
    path: Path,
    *,
    seconds: float = 2.0,
    sample_rate: int = 44100,
    channels: int = 2,
    codec: str | None = None,
    container: str | None = None,
    bits: str | None = None,
    bit_rate: int | None = None,
    tags: Mapping[str, str] | None = None,
    cover: bool | bytes = False,
    video: bool = False,
    audio: bool = True,
    samples: Samples | None = None,
    seed: int = 0,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
) -> Samples:
    """Write a real, playable file and return what was encoded, float32 (channels, samples).

    `bits`: "16", "24", "32", "f32", "f64" for wav, "16" or "24" for flac and alac. `codec`: a PyAV encoder, e.g.
    "alac", "libopus", "pcm_f32le". `samples`: your own sound in place of `tune(seconds, …)`. `video`: a moving picture
    beside the sound; with `audio=False` a video without sound. `options` go to the encoder, `container_options` to
    the muxer (e.g. {"write_xing": "0"}).
    """
    by_suffix = BY_SUFFIX.get(path.suffix.lower(), BY_SUFFIX[".wav"])
    container = container or by_suffix[0]
    codec = codec or (_PCM_BY_BITS[bits or "16"] if by_suffix[1].startswith("pcm") else by_suffix[1])
    if samples is None:
        samples = tune(seconds, sample_rate=sample_rate, channels=channels, seed=seed)
    channels = samples.shape[0]
    jpeg = cover if isinstance(cover, bytes) else cover_jpeg()
    if cover and container == "ipod":
        container = "mp4"  # the "ipod" muxer takes no picture
    with av.open(str(path), "w", format=container, container_options=dict(container_options or {})) as output:
        output.metadata.update(tags or {})
        sound = _add_sound(output, codec, sample_rate, channels, bits, bit_rate, options) if audio else None
        moving = None
        if video:
            moving = output.add_stream("libvpx" if container == "webm" else "mpeg4", rate=10, width=64, height=48)
            moving.pix_fmt = "yuv420p"
        picture = None
        if cover:
            picture = output.add_mux_stream("mjpeg", width=64, height=64, time_base=Fraction(1, 90000))
            picture.disposition = Disposition.attached_pic
        output.start_encoding()
        if picture is not None:
            packet = av.Packet(jpeg)
            packet.stream = picture
            packet.pts = packet.dts = 0
            output.mux(packet)
        if moving is not None:
            for number in range(max(2, round(seconds * 10))):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 250, dtype=np.uint8), format="rgb24")
                frame.pts = number
                output.mux(moving.encode(frame))
            output.mux(moving.encode(None))
        if sound is not None:
            for block in _frames(samples, sound):
                output.mux(sound.encode(block))
            output.mux(sound.encode(None))
    return samples


def _add_sound(
    output: av.container.OutputContainer,
    codec: str,
    sample_rate: int,
    channels: int,
    bits: str | None,
    bit_rate: int | None,
    options: Mapping[str, str] | None,
) -> AudioStream:
    stream = output.add_stream(codec, rate=sample_rate, options=dict(options or {}))
    assert isinstance(stream, AudioStream)
    if codec in ("vorbis", "opus"):  # FFmpeg's own encoders of these are marked experimental
        stream.codec_context.options["strict"] = "experimental"
    stream.codec_context.layout = _LAYOUTS.get(channels, f"{channels} channels")
    if codec == "flac":
        stream.codec_context.format = "s32" if bits in ("24", "32") else "s16"
    elif codec == "alac":
        stream.codec_context.format = "s32p" if bits in ("24", "32") else "s16p"
    if bit_rate is not None:
        stream.bit_rate = bit_rate
    return stream


def _frames(samples: Samples, stream: AudioStream) -> list[av.AudioFrame]:
    """The sound as frames in the encoder's own sample format, of its own frame size."""
    wanted = stream.codec_context.format
    layout = stream.codec_context.layout
    full_scale: dict[str, tuple[float, type[np.generic]]] = {
        "u8": (127.0, np.uint8),
        "s16": (32767.0, np.int16),
        "s32": (2147483520.0, np.int32),
        "flt": (1.0, np.float32),
        "dbl": (1.0, np.float64),
    }
    scale, kind = full_scale[wanted.name.removesuffix("p")]
    scaled = samples.astype(np.float64) * scale
    if np.issubdtype(kind, np.integer):
        scaled = np.clip(np.rint(np.nan_to_num(scaled)), -scale - 1, scale) + (128 if kind is np.uint8 else 0)
    data = scaled.astype(kind)
    size = stream.codec_context.frame_size or 4096
    frames = []
    for start in range(0, data.shape[1], size):
        block = np.ascontiguousarray(data[:, start : start + size])
        if not wanted.is_planar:
            block = np.ascontiguousarray(block.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(block, format=wanted.name, layout=layout.name)
        frame.sample_rate = stream.codec_context.sample_rate
        frame.pts = start
        frame.time_base = Fraction(1, stream.codec_context.sample_rate)
        frames.append(frame)
    return frames
