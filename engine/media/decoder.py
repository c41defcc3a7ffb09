"""Decode one file to blocks of samples. It runs in the sandboxed child process.

Only listed containers and codecs are read, from one open file: no network, no playlists, no references to other
files. The content decides the format; the file's name is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition

from engine.errors import (
    BrokenAudio,
    DecodingTooExpensive,
    EmptyAudio,
    EmptyInput,
    NotAudio,
    TooLarge,
    TooLong,
    TruncatedAudio,
)
from engine.jobs.file_types import DEMUXERS
from engine.media.headers import OGG, looks_like_audio
from engine.media.large_tags import hide_large_tags
from engine.media.limits import LEEWAY_S
from engine.media.ogg import chain_links, ends_within_page
from engine.media.samples import ChannelMixer, Samples, to_float
from engine.media.tags import usable_cover
from engine.media.track import (
    CODECS,
    HIGHEST_RATE,
    LOWEST_RATE,
    MOST_CHANNELS,
    DecodedAudio,
    Track,
    choose_stream,
    describe,
    open_track,
)
from engine.media.view import FileView
from engine.media.wav import read_wav_header, states_less_than_it_holds
from engine.text import format_duration

USUAL_RATES = frozenset(
    {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000, 176400, 192000}
)
"""Other rates are converted to 44.1 kHz here: a resampler between odd rates can need gigabytes later."""
RATE_FOR_UNUSUAL = 44100

_MISSING_END_S = 0.5  # a file this much shorter than its header says is truncated
_LONGEST_PADDING_SAMPLES = 8192  # counted in an mp3's length, and dropped by decoders
_BLOCK_SAMPLES = 1 << 15
_INDEX_BYTES = 16 * 1024

Sink = Callable[[Samples], object]


def read_audio(
    song: Path | int,
    *,
    max_bytes: int,
    max_duration_s: float,
    sink: Sink,
    on_progress: Callable[[float], None] | None = None,
) -> DecodedAudio:
    """Decode `song`, a path or an open descriptor, into `sink`: float32 blocks (1 or 2, samples).

    Raises `EmptyInput`, `TooLarge`, `TooLong`, `NotAudio`, `NoAudioTrack`, `BrokenAudio` (and subclasses), and
    `DecodingTooExpensive` when memory runs out.
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
    options = {
        "format_whitelist": ",".join(DEMUXERS),
        "codec_whitelist": CODECS,
        "protocol_whitelist": "none",
        "fflags": "+ignidx",  # an index takes time quadratic in its length, and is not needed without seeking
        "indexmem": str(_INDEX_BYTES),
    }
    if understates_length := states_less_than_it_holds(file):
        options["ignore_length"] = "1"
    header = read_wav_header(file)
    patches = {**(header.patches(file) if header is not None else {}), **hide_large_tags(file)}
    decoder: BlockDecoder | None = None
    for start, stop in chain_links(file):
        view = FileView(file, start, stop, patches)
        with av.open(view, "r", options=options, metadata_errors="replace", io_open=_refuse_to_open) as container:
            stream = choose_stream(container, known)
            audio = describe(container, stream)
            decoder = decoder or BlockDecoder(audio, max_duration_s, sink)
            decoder.begin(open_track(container, stream, view, max_duration_s, has_true_length=not understates_length))
            pictures = [other for other in container.streams.video if other.disposition & Disposition.attached_pic]
            for packet in container.demux(stream, *pictures):
                if packet.stream.index != stream.index:
                    decoder.audio.cover = decoder.audio.cover or usable_cover(bytes(packet))
                    continue
                decoder.decode_packet(packet)
                if on_progress is not None:
                    on_progress(min(1.0, (start + (packet.pos or view.tell())) / size))
            decoder.end(known)
    assert decoder is not None
    audio = decoder.audio
    if not audio.samples:
        if decoder.lost_packets:
            raise BrokenAudio if known else NotAudio
        raise EmptyAudio
    if (header is not None and header.is_cut) or (audio.container == OGG and ends_within_page(file)):
        raise TruncatedAudio
    return audio


def _refuse_to_open(url: str, flags: int, options: object) -> object:
    raise PermissionError("a song must not open other files")


class BlockDecoder:
    """Decode packets into blocks of one sample rate and channel count, without padding, and count them."""

    def __init__(self, audio: DecodedAudio, max_duration_s: float, sink: Sink) -> None:
        self.audio = audio
        self.lost_packets = 0
        self._packets = 0
        self._max_duration_s = max_duration_s
        self._sink = sink
        self._mixer = ChannelMixer()
        self._rate = audio.sample_rate if audio.sample_rate in USUAL_RATES else RATE_FOR_UNUSUAL
        self._started = False
        self._resampler: av.AudioResampler | None = None
        self._resampler_rate = 0
        self._pending: list[Samples] = []
        self._pending_samples = 0

    def begin(self, track: Track) -> None:
        """Start a track, which continues the previous one."""
        self._track = track
        self._track_start_samples = self.audio.samples
        self._packets = self.lost_packets = 0

    def decode_packet(self, packet: av.Packet[Any]) -> None:
        """Decode one packet, or count it as lost if it is damaged."""
        try:
            frames = self._track.stream.decode(packet)
        except (av.InvalidDataError, av.PatchWelcomeError, av.ArgumentError, av.UndefinedError):
            self.lost_packets += 1
            return
        self._packets += 1
        for frame in frames:
            self._add_frame(frame)

    def end(self, known: bool) -> None:
        """Finish the track. Raises `BrokenAudio` or `TruncatedAudio` if too much of it is missing."""
        self._drain()
        self._flush()
        self.audio.out_sample_rate = self._rate
        self.audio.out_channels = self._mixer.channels
        length_s = (self.audio.samples - self._track_start_samples) / self._rate
        if self.lost_packets > self._packets:
            raise BrokenAudio if known else NotAudio
        lost_s = self.lost_packets * length_s / max(1, self._packets)
        if lost_s > _MISSING_END_S:
            raise BrokenAudio
        slack_s = max(_MISSING_END_S, _LONGEST_PADDING_SAMPLES / self._rate)
        declared_s = self._track.declared_s
        if length_s and declared_s is not None and length_s < declared_s - slack_s:
            actual, declared = format_duration(length_s), format_duration(declared_s)
            raise TruncatedAudio(
                f"That file should be {declared} long but ends after {actual}. Please export or upload it again."
                if actual != declared
                else None
            )

    def _add_frame(self, frame: av.AudioFrame) -> None:
        if not frame.samples:
            return
        if frame.layout.nb_channels > MOST_CHANNELS or not LOWEST_RATE <= frame.sample_rate <= HIGHEST_RATE:
            raise BrokenAudio
        if not self._started:  # the header can be wrong, as for AAC with SBR
            self._started = True
            self._rate = frame.sample_rate if frame.sample_rate in USUAL_RATES else RATE_FOR_UNUSUAL
        if self._track.timeline is not None:
            self._add_silence(self._track.timeline.gap_before(frame))
        block = self._mixer(frame)
        if frame.sample_rate == self._rate and self._resampler is None:
            self._add(block)
            return
        if self._resampler is None or self._resampler_rate != frame.sample_rate:
            self._drain()
            self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self._rate)
            self._resampler_rate = frame.sample_rate
        mixed = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self._layout)
        mixed.sample_rate = frame.sample_rate
        self._add_resampled(self._resampler.resample(mixed))

    def _add_silence(self, seconds: float) -> None:
        left = round(seconds * self._rate)
        if left:
            self._drain()
        while left > 0:
            count = min(left, _BLOCK_SAMPLES)
            self._add(np.zeros((self._mixer.channels, count), dtype=np.float32))
            left -= count

    def _drain(self) -> None:
        """Empty the resampler and drop it; the next frame decides whether one is needed."""
        if self._resampler is not None:
            self._add_resampled(self._resampler.resample(None))
            self._resampler = None

    @property
    def _layout(self) -> str:
        return "mono" if self._mixer.channels == 1 else "stereo"

    def _add_resampled(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._add(to_float(frame))

    def _add(self, block: Samples) -> None:
        self._pending.append(block)
        self._pending_samples += block.shape[1]
        if self._pending_samples >= _BLOCK_SAMPLES:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        whole = np.concatenate(self._pending, axis=1)
        self._pending, self._pending_samples = [], 0
        for block in self._track.trimmer(whole):
            if not block.shape[1]:
                continue
            self.audio.samples += block.shape[1]
            if self.audio.samples > (self._max_duration_s + LEEWAY_S) * self._rate:
                raise self._too_long()
            self.audio.peak = max(self.audio.peak, float(block.max()), -float(block.min()))
            self._sink(block)

    def _too_long(self) -> TooLong:
        limit, declared_s = format_duration(self._max_duration_s), self._track.declared_s
        is_declared = declared_s is not None and declared_s > self._max_duration_s
        length = f"{format_duration(declared_s)} long" if declared_s and is_declared else f"longer than {limit}"
        return TooLong(f"That track is {length}. The limit is {limit}. Cut it and send the part you want.")
