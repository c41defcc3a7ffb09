"""The audio track of a container: which one is read, its properties, and its stated length."""

from __future__ import annotations

from dataclasses import dataclass, field

import av
from av.audio.stream import AudioStream
from av.codec import CodecContext
from av.stream import Disposition, Stream

from engine.errors import BrokenAudio, InputRefused, NoAudioTrack, NotAudio, UnreadableCodec
from engine.media.headers import MATROSKA, MOV, OGG, declared_end_s
from engine.media.ogg import first_granule
from engine.media.tags import read_tags
from engine.media.timeline import EndTrimmer, Timeline, mov_length
from engine.media.view import FileView

CODECS = (
    "mp3float,mp3,mp2float,mp2,aac,aac_latm,alac,flac,vorbis,opus,libopus,ac3,eac3,wavpack,"
    "pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_s64le,pcm_s64be,"
    "pcm_f24le,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt"
)
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000
MOST_CHANNELS = 64


@dataclass
class DecodedAudio:
    """The result of reading a file.

    `sample_rate`, `channels` and `bits` are the file's; `out_*`, `samples` and `peak` describe the decoded samples.
    """

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


@dataclass(frozen=True)
class Track:
    """A stream to read.

    `declared_end_s` is on the clock that `timeline` follows; without a timeline it is a length.
    """

    stream: AudioStream
    trimmer: EndTrimmer
    timeline: Timeline | None
    declared_end_s: float | None

    @property
    def declared_s(self) -> float | None:
        """The stated length of the audio."""
        if self.declared_end_s is None or self.timeline is None:
            return self.declared_end_s
        return self.declared_end_s - self.timeline.start_s - self.timeline.skipped_s


def open_track(
    container: av.container.InputContainer,
    stream: AudioStream,
    view: FileView,
    max_duration_s: float,
    *,
    has_true_length: bool,
) -> Track:
    """Collect what decoding `stream` needs; `has_true_length`: the header's length can be trusted."""
    timeline = None
    if container.format.name in (OGG, MATROSKA, MOV):
        # FFmpeg takes the first page of FLAC in Ogg for the start even if the stream starts later.
        granule = first_granule(view) if container.format.name == OGG and stream.codec_context.name == "flac" else None
        timeline = Timeline(max_duration_s, None if granule is None else granule / stream.sample_rate)
    return Track(
        stream,
        EndTrimmer(mov_length(container, stream)),
        timeline,
        declared_end_s(container, stream, view) if has_true_length else None,
    )


def choose_stream(container: av.container.InputContainer, known: bool) -> AudioStream:
    """Return the default audio stream, or the first one; `known`: the file starts like an audio file."""
    streams = list(container.streams.audio)
    if not streams:
        if any(stream.type in ("video", "subtitle") for stream in container.streams):
            raise NoAudioTrack
        raise BrokenAudio if known else NotAudio
    readable = [stream for stream in streams if _has_decoder(stream)]
    if not readable:
        raise UnreadableCodec
    return next((stream for stream in readable if stream.disposition & Disposition.default), readable[0])


def _has_decoder(stream: Stream) -> bool:
    context: CodecContext | None = stream.codec_context  # None for a codec unknown to FFmpeg
    return context is not None and context.name in CODECS.split(",")


def describe(container: av.container.InputContainer, stream: AudioStream) -> DecodedAudio:
    """Return the stream's properties and tags. Raises `InputRefused` if its rate or channel count is out of range."""
    context = stream.codec_context
    context.thread_count = 1
    if not context.sample_rate or not context.layout.nb_channels:
        raise BrokenAudio
    if not LOWEST_RATE <= context.sample_rate <= HIGHEST_RATE:
        raise InputRefused(
            f"That file has a sample rate of {context.sample_rate} Hz, which is not supported. "
            "Export it at 44.1 or 48 kHz."
        )
    if context.layout.nb_channels > MOST_CHANNELS:
        raise InputRefused(f"That file has {context.layout.nb_channels} channels. Export it as stereo.")
    return DecodedAudio(
        container=container.format.name,
        codec=context.codec.canonical_name,
        sample_rate=context.sample_rate,
        channels=context.layout.nb_channels,
        bits=_bits(stream),
        tags=read_tags(container, stream),
    )


def _bits(stream: AudioStream) -> int | None:
    """Return the bits per sample; None for lossy codecs."""
    name = stream.codec_context.codec.canonical_name
    if name.startswith("pcm_"):
        digits = "".join(char for char in name.split("_")[1] if char.isdigit())
        return int(digits) if digits else None
    if name in ("flac", "alac", "wavpack"):
        sample_format: av.AudioFormat | None = stream.codec_context.format  # None if FFmpeg could not tell
        return 16 if sample_format is not None and sample_format.name.startswith("s16") else 24
    return None
