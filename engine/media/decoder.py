"""The one loop that decodes a file, for counting (probe) and for keeping (decode). It runs in the child process.

What may be read is a list: these containers, these codecs, from this one open file and no other (no network, no
playlists, no references out of the file). Which it is, the bytes decide; the name is not even known here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import av
from av.audio.stream import AudioStream
from av.codec import CodecContext
from av.stream import Disposition, Stream

from engine.errors import (
    BrokenAudio,
    DecodingTooExpensive,
    EmptyAudio,
    EmptyInput,
    InputRefused,
    NoAudioTrack,
    NotAudio,
    TooLarge,
    TruncatedAudio,
    UnreadableCodec,
)
from engine.jobs.file_types import DEMUXERS
from engine.media.gapless import MOV, EndTrimmer, mov_length
from engine.media.gather import HIGHEST_RATE, LOWEST_RATE, MOST_CHANNELS, BlockDecoder, DecodedAudio, Sink, Track
from engine.media.headers import MATROSKA, OGG, declared_end_s
from engine.media.large_tags import hide_large_tags
from engine.media.ogg import chain_links, ends_within_page, first_granule
from engine.media.sniff import looks_like_audio
from engine.media.tags import read_tags, usable_cover
from engine.media.timeline import Timeline
from engine.media.view import FileView
from engine.media.wav import read_wav_header, states_less_than_it_holds

CODECS = (
    "mp3float,mp3,mp2float,mp2,aac,aac_latm,alac,flac,vorbis,opus,libopus,ac3,eac3,wavpack,"
    "pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_s64le,pcm_s64be,"
    "pcm_f24le,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt"
)


def read_sound(
    song: Path | int,
    *,
    max_bytes: int,
    max_duration_s: float,
    sink: Sink,
    on_progress: Callable[[float], None] | None = None,
) -> DecodedAudio:
    """Decode `song`, a path or an open descriptor, block by block into `sink`: float32 (1 or 2, samples), at most
    `max_duration_s`.

    Raises what is to be told about the file: `EmptyInput`, `TooLarge`, `TooLong`, `NotAudio`, `NoAudioTrack`,
    `BrokenAudio` and their kinds, `DecodingTooExpensive` where memory is limited.
    """
    with open(song, "rb") as file:  # noqa: PTH123  # a descriptor has no path
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise EmptyInput
        if size > max_bytes:
            raise TooLarge.over(max_bytes, size)
        known = looks_like_audio(file)
        try:
            return _read(file, size, known, max_duration_s, sink, on_progress)
        except MemoryError as error:
            raise DecodingTooExpensive(detail="out of memory") from error
        except (av.FFmpegError, ValueError, OverflowError) as error:
            kind = BrokenAudio if known else NotAudio
            raise kind(detail=f"{type(error).__name__}: {error}"[:300]) from error


def _read(
    file: BinaryIO,
    size: int,
    known: bool,
    max_duration_s: float,
    sink: Sink,
    on_progress: Callable[[float], None] | None,
) -> DecodedAudio:
    options = {"format_whitelist": ",".join(DEMUXERS), "codec_whitelist": CODECS, "protocol_whitelist": "none"}
    if is_cut_short := states_less_than_it_holds(file):
        options["ignore_length"] = "1"
    header = read_wav_header(file)
    patches = {**(header.patches(file) if header is not None else {}), **hide_large_tags(file)}
    gatherer: BlockDecoder | None = None
    for start, stop in chain_links(file):
        view = FileView(file, start, stop, patches)
        with av.open(view, "r", options=options, metadata_errors="replace", io_open=_refuse_to_open) as container:
            stream = _choose(container, known)
            sound = _describe(container, stream)
            gatherer = gatherer or BlockDecoder(sound, max_duration_s, sink)
            gatherer.begin(_track(container, stream, view, max_duration_s, has_true_length=not is_cut_short))
            pictures = [other for other in container.streams.video if other.disposition & Disposition.attached_pic]
            for packet in container.demux(stream, *pictures):
                if packet.stream.index != stream.index:
                    gatherer.sound.cover = gatherer.sound.cover or usable_cover(bytes(packet))
                    continue
                gatherer.decode_packet(packet)
                if on_progress is not None:
                    on_progress(min(1.0, (start + (packet.pos or view.tell())) / size))
            gatherer.end(known)
    assert gatherer is not None
    sound = gatherer.sound
    if not sound.samples:
        if gatherer.lost_packets:
            raise BrokenAudio if known else NotAudio
        raise EmptyAudio
    if (header is not None and header.is_cut) or (sound.container == OGG and ends_within_page(file)):
        raise TruncatedAudio
    return sound


def _track(
    container: av.container.InputContainer,
    stream: AudioStream,
    view: FileView,
    max_duration_s: float,
    *,
    has_true_length: bool,
) -> Track:
    timeline = None
    if container.format.name in (OGG, MATROSKA, MOV):
        # FFmpeg takes the first page of FLAC in Ogg for the start, also where the stream starts later
        granule = first_granule(view) if container.format.name == OGG and stream.codec_context.name == "flac" else None
        timeline = Timeline(max_duration_s, None if granule is None else granule / stream.sample_rate)
    return Track(
        stream,
        EndTrimmer(mov_length(container, stream)),
        timeline,
        declared_end_s(container, stream, view) if has_true_length else None,
    )


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


def _describe(container: av.container.InputContainer, stream: AudioStream) -> DecodedAudio:
    context = stream.codec_context
    context.thread_count = 1
    if not context.sample_rate or not context.layout.nb_channels:
        raise BrokenAudio
    if not LOWEST_RATE <= context.sample_rate <= HIGHEST_RATE:
        raise InputRefused(
            f"That file has {context.sample_rate} samples a second, which is not music. Export it at 44.1 or 48 kHz."
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
    """Bits a sample, for codecs in which that means something."""
    name = stream.codec_context.codec.canonical_name
    if name.startswith("pcm_"):
        digits = "".join(char for char in name.split("_")[1] if char.isdigit())
        return int(digits) if digits else None
    if name in ("flac", "alac", "wavpack"):
        sample_format: av.AudioFormat | None = stream.codec_context.format  # None until something is known
        return 16 if sample_format is not None and sample_format.name.startswith("s16") else 24
    return None
