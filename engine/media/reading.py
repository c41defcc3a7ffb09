"""The one loop that decodes a file, for counting (probe) and for keeping (decode). It runs in the child process.

What may be read is a list: these containers, these codecs, from this one open file and no other (no network, no
playlists, no references out of the file). Which it is, the bytes decide; the name is not even known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec import CodecContext
from av.stream import Disposition, Stream

from engine.errors import (
    BrokenAudio,
    EmptyAudio,
    EmptyInput,
    InputRefused,
    NoAudioTrack,
    NotAudio,
    TooHeavy,
    TooLong,
    TruncatedAudio,
    UnreadableCodec,
)
from engine.media.declared import breaks_off, declared_seconds, wav_lies
from engine.media.gapless import Padding, mov_length
from engine.media.limits import LEEWAY_S, clock, too_large
from engine.media.samples import Fold, Samples, to_float
from engine.media.sniff import looks_like_audio
from engine.media.tags import read_tags, usable_cover

CONTAINERS = ("mp3", "wav", "w64", "flac", "ogg", "mov", "matroska", "aac", "aiff", "caf")
CODECS = (
    "mp3float,mp3,mp2float,mp2,aac,aac_latm,alac,flac,vorbis,opus,libopus,ac3,eac3,wavpack,"
    "pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_s64le,pcm_s64be,"
    "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt"
)
USUAL_RATES = frozenset(
    {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000, 176400, 192000}
)
"""Any other rate is brought to 44.1 kHz here: a resampler between odd rates can cost gigabytes later on."""
RATE_FOR_UNUSUAL = 44100

_LOWEST_RATE, _HIGHEST_RATE = 1000, 768_000
_MOST_CHANNELS = 64
_MISSING_END_S = 0.5  # so much less than the file's own header says, and its end is missing
_BLOCK_SAMPLES = 1 << 15

Sink = Callable[[Samples], None]


@dataclass
class Sound:
    """What was read. `sample_rate`, `channels` and `bits` are the file's; `out_*` and `samples` what the sink got."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    bits: int | None
    out_sample_rate: int = 0
    out_channels: int = 0
    samples: int = 0
    peak: float = 0.0
    tags: dict[str, str] = field(default_factory=dict)
    cover: bytes | None = None


def read_sound(
    path: Path,
    *,
    max_bytes: int,
    max_duration_s: float,
    sink: Sink,
    on_progress: Callable[[float], None] | None = None,
) -> Sound:
    """Decode the sound of `path` block by block into `sink`: float32 (1 or 2, samples), at most `max_duration_s`.

    Raises what is to be told about the file: `EmptyInput`, `TooLarge`, `TooLong`, `NotAudio`, `NoAudioTrack`,
    `BrokenAudio` and their kinds, `TooHeavy` where memory is limited.
    """
    size = path.stat().st_size
    if not size:
        raise EmptyInput
    if size > max_bytes:
        raise too_large(size, max_bytes)
    with path.open("rb") as file:
        known = looks_like_audio(file)
        try:
            return _read(_Nameless(file, size), size, known, max_duration_s, sink, on_progress)
        except MemoryError as error:
            raise TooHeavy(detail="out of memory") from error
        except (av.FFmpegError, ValueError, OverflowError) as error:
            kind = BrokenAudio if known else NotAudio
            raise kind(detail=f"{type(error).__name__}: {error}"[:300]) from error


class _Nameless:
    """A readable file without a name, so that FFmpeg judges by content and can open nothing beside it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.read, self.tell = file.read, file.tell
        self.file, self.size = file, size

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self.file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # a header points outside; FFmpeg takes it as a failed seek
            return -1


def _read(
    file: _Nameless,
    size: int,
    known: bool,
    max_duration_s: float,
    sink: Sink,
    on_progress: Callable[[float], None] | None,
) -> Sound:
    options = {"format_whitelist": ",".join(CONTAINERS), "codec_whitelist": CODECS, "protocol_whitelist": "none"}
    if wav_lies(file.file):
        options["ignore_length"] = "1"
    with av.open(file, "r", options=options, metadata_errors="replace", io_open=_refuse_to_open) as container:
        stream = _choose(container, known)
        sound = _describe(container, stream)
        lies = "ignore_length" in options
        declared_s = None if lies else declared_seconds(container, stream, file.file)
        loop = _Loop(stream, sound, Padding(mov_length(container, stream)), max_duration_s, declared_s, sink)
        pictures = [other for other in container.streams.video if other.disposition & Disposition.attached_pic]
        for packet in container.demux(stream, *pictures):
            if packet.stream.index != stream.index:
                sound.cover = sound.cover or usable_cover(bytes(packet))
                continue
            loop.take(packet)
            if on_progress is not None:
                on_progress(min(1.0, (packet.pos or file.tell()) / size))
        loop.finish()
    if not sound.samples:
        if loop.lost_packets:
            raise BrokenAudio if known else NotAudio
        raise EmptyAudio
    loop.judge(known)
    if breaks_off(sound.container, file.file):
        raise TruncatedAudio
    return sound


def _refuse_to_open(url: str, flags: int, options: object) -> object:
    raise PermissionError("a song has no business opening other files")


def _choose(container: av.container.InputContainer, known: bool) -> AudioStream:
    """The default sound track, else the first one."""
    tracks = list(container.streams.audio)
    if not tracks:
        if any(stream.type in ("video", "subtitle") for stream in container.streams):
            raise NoAudioTrack
        raise BrokenAudio if known else NotAudio
    readable = [track for track in tracks if _has_decoder(track)]
    if not readable:
        raise UnreadableCodec
    return next((one for one in readable if one.disposition & Disposition.default), readable[0])


def _has_decoder(track: Stream) -> bool:
    context: CodecContext | None = track.codec_context  # there is none for a codec that FFmpeg does not know
    return context is not None and context.name in CODECS.split(",")


def _describe(container: av.container.InputContainer, stream: AudioStream) -> Sound:
    context = stream.codec_context
    context.thread_count = 1
    if not context.sample_rate or not context.layout.nb_channels:
        raise BrokenAudio
    if not _LOWEST_RATE <= context.sample_rate <= _HIGHEST_RATE:
        raise InputRefused(
            f"That file has {context.sample_rate} samples a second, which is not music. Export it at 44.1 or 48 kHz."
        )
    if context.layout.nb_channels > _MOST_CHANNELS:
        raise InputRefused(f"That file has {context.layout.nb_channels} channels. Export it as stereo.")
    return Sound(
        container=container.format.name,
        codec=context.codec.canonical_name,
        sample_rate=context.sample_rate,
        channels=context.layout.nb_channels,
        bits=_bits(stream),
        tags=read_tags(container, stream),
    )


def _bits(stream: AudioStream) -> int | None:
    """Bits a sample, for codecs in which that means something."""
    name = stream.codec_context.codec.canonical_name
    if name.startswith("pcm_"):
        digits = "".join(char for char in name.split("_")[1] if char.isdigit())
        return int(digits) if digits else None
    if name in ("flac", "alac", "wavpack"):
        sample_format: av.AudioFormat | None = stream.codec_context.format  # None until something is known
        return 16 if sample_format is not None and sample_format.name.startswith("s16") else 24
    return None


class _Loop:
    """From packets to the sink: gather, bring to one rate and one channel count, cut the padding, count."""

    def __init__(
        self,
        stream: AudioStream,
        sound: Sound,
        padding: Padding,
        max_duration_s: float,
        declared_s: float | None,
        sink: Sink,
    ) -> None:
        self._stream = stream
        self.sound = sound
        self.lost_packets = 0
        self._packets = 0
        self._padding = padding
        self._max_duration_s = max_duration_s
        self._declared_s = declared_s
        self._sink = sink
        self._fold = Fold()
        self._rate = sound.sample_rate if sound.sample_rate in USUAL_RATES else RATE_FOR_UNUSUAL
        self._started = False
        self._resampler: av.AudioResampler | None = None
        self._resampled_rate = 0
        self._gathered: list[Samples] = []
        self._gathered_samples = 0

    def take(self, packet: av.Packet[Any]) -> None:
        try:
            frames = self._stream.decode(packet)
        except (av.InvalidDataError, av.PatchWelcomeError, av.ArgumentError, av.UndefinedError):
            self.lost_packets += 1
            return
        self._packets += 1
        for frame in frames:
            self._frame(frame)

    def finish(self) -> None:
        if self._resampler is not None:
            self._resampled(self._resampler.resample(None))
        self._flush()
        self.sound.out_sample_rate = self._rate
        self.sound.out_channels = self._fold.channels

    def judge(self, known: bool) -> None:
        """Raise if too much of the file could not be read."""
        length_s = self.sound.samples / self._rate
        if self.lost_packets > self._packets:
            raise BrokenAudio if known else NotAudio
        lost_s = self.lost_packets * length_s / max(1, self._packets)
        if lost_s > _MISSING_END_S:
            raise BrokenAudio
        if self._declared_s is not None and length_s < self._declared_s - max(_MISSING_END_S, 0.001 * self._declared_s):
            here, said = clock(length_s), clock(self._declared_s)
            raise TruncatedAudio(
                f"That file stops after {here}, but says itself that it is {said} long: its end is missing. "
                "Please export or upload it again."
                if here != said
                else None
            )

    def _frame(self, frame: av.AudioFrame) -> None:
        if not frame.samples:
            return
        if frame.layout.nb_channels > _MOST_CHANNELS or not _LOWEST_RATE <= frame.sample_rate <= _HIGHEST_RATE:
            raise BrokenAudio
        if not self._started:  # the decoder knows better than the header (HE-AAC doubles the rate)
            self._started = True
            self._rate = frame.sample_rate if frame.sample_rate in USUAL_RATES else RATE_FOR_UNUSUAL
        if frame.sample_rate == self._rate and self._resampler is None:
            self._gather(self._fold(frame))
            return
        block = self._fold(frame)
        if self._resampler is None or self._resampled_rate != frame.sample_rate:
            if self._resampler is not None:
                self._resampled(self._resampler.resample(None))
            self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self._rate)
            self._resampled_rate = frame.sample_rate
        again = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self._layout)
        again.sample_rate = frame.sample_rate
        self._resampled(self._resampler.resample(again))

    @property
    def _layout(self) -> str:
        return "mono" if self._fold.channels == 1 else "stereo"

    def _resampled(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._gather(to_float(frame))

    def _gather(self, block: Samples) -> None:
        self._gathered.append(block)
        self._gathered_samples += block.shape[1]
        if self._gathered_samples >= _BLOCK_SAMPLES:
            self._flush()

    def _flush(self) -> None:
        if not self._gathered:
            return
        whole = np.concatenate(self._gathered, axis=1)
        self._gathered, self._gathered_samples = [], 0
        for block in self._padding(whole):
            if not block.shape[1]:
                continue
            self.sound.samples += block.shape[1]
            if self.sound.samples > (self._max_duration_s + LEEWAY_S) * self._rate:
                raise self._too_long()
            self.sound.peak = max(self.sound.peak, float(block.max()), -float(block.min()))
            self._sink(block)

    def _too_long(self) -> TooLong:
        limit = clock(self._max_duration_s)
        said = self._declared_s
        length = f"{clock(said)} long" if said and said > self._max_duration_s else f"longer than {limit}"
        return TooLong(f"That track is {length}. The limit is {limit}: cut it, and send the part that you want.")
