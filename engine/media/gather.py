"""From packets to blocks of samples: decode, bring to one rate and at most two channels, cut the padding, count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream

from engine.errors import BrokenAudio, NotAudio, TooLong, TruncatedAudio
from engine.media.gapless import EndTrimmer
from engine.media.limits import LEEWAY_S, format_duration
from engine.media.samples import ChannelMixer, Samples, to_float
from engine.media.timeline import Timeline

USUAL_RATES = frozenset(
    {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000, 176400, 192000}
)
"""Any other rate is brought to 44.1 kHz here: a resampler between odd rates can cost gigabytes later on."""
RATE_FOR_UNUSUAL = 44100

LOWEST_RATE, HIGHEST_RATE = 1000, 768_000
MOST_CHANNELS = 64
_MISSING_END_S = 0.5  # so much less than the file's own header says, and its end is missing
_LONGEST_PADDING_SAMPLES = 8192  # what mp3 counts as length, and a decoder rightly drops
_BLOCK_SAMPLES = 1 << 15

Sink = Callable[[Samples], None]


@dataclass
class DecodedAudio:
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


@dataclass(frozen=True)
class Track:
    """A stream to read. `declared_end_s` is by the timestamps that `timeline` follows, or the length without one."""

    stream: AudioStream
    padding: EndTrimmer
    timeline: Timeline | None
    declared_end_s: float | None

    @property
    def declared_s(self) -> float | None:
        """The stated length of the sound."""
        if self.declared_end_s is None or self.timeline is None:
            return self.declared_end_s
        return self.declared_end_s - self.timeline.start_s - self.timeline.skipped_s


class BlockDecoder:
    """From packets to the sink: gather, bring to one rate and one channel count, cut the padding, count."""

    def __init__(self, sound: DecodedAudio, max_duration_s: float, sink: Sink) -> None:
        self.sound = sound
        self.lost_packets = 0
        self._packets = 0
        self._max_duration_s = max_duration_s
        self._sink = sink
        self._fold = ChannelMixer()
        self._rate = sound.sample_rate if sound.sample_rate in USUAL_RATES else RATE_FOR_UNUSUAL
        self._started = False
        self._resampler: av.AudioResampler | None = None
        self._resampled_rate = 0
        self._gathered: list[Samples] = []
        self._gathered_samples = 0

    def begin(self, track: Track) -> None:
        """Start a track, which continues the one before it."""
        self._track = track
        self._track_start_samples = self.sound.samples
        self._packets = self.lost_packets = 0

    def decode_packet(self, packet: av.Packet[Any]) -> None:
        try:
            frames = self._track.stream.decode(packet)
        except (av.InvalidDataError, av.PatchWelcomeError, av.ArgumentError, av.UndefinedError):
            self.lost_packets += 1
            return
        self._packets += 1
        for frame in frames:
            self._frame(frame)

    def end(self, known: bool) -> None:
        """Finish the track. Raises if too much of it could not be read."""
        self._drain()
        self._flush()
        self.sound.out_sample_rate = self._rate
        self.sound.out_channels = self._fold.channels
        length_s = (self.sound.samples - self._track_start_samples) / self._rate
        if self.lost_packets > self._packets:
            raise BrokenAudio if known else NotAudio
        lost_s = self.lost_packets * length_s / max(1, self._packets)
        if lost_s > _MISSING_END_S:
            raise BrokenAudio
        slack_s = max(_MISSING_END_S, _LONGEST_PADDING_SAMPLES / self._rate)
        declared_s = self._track.declared_s
        if length_s and declared_s is not None and length_s < declared_s - slack_s:
            here, said = format_duration(length_s), format_duration(declared_s)
            raise TruncatedAudio(
                f"That file stops after {here}, but says itself that it is {said} long: its end is missing. "
                "Please export or upload it again."
                if here != said
                else None
            )

    def _frame(self, frame: av.AudioFrame) -> None:
        if not frame.samples:
            return
        if frame.layout.nb_channels > MOST_CHANNELS or not LOWEST_RATE <= frame.sample_rate <= HIGHEST_RATE:
            raise BrokenAudio
        if not self._started:  # the decoder knows better than the header (HE-AAC doubles the rate)
            self._started = True
            self._rate = frame.sample_rate if frame.sample_rate in USUAL_RATES else RATE_FOR_UNUSUAL
        if self._track.timeline is not None:
            self._silence(self._track.timeline.gap_before(frame))
        if frame.sample_rate == self._rate and self._resampler is None:
            self._gather(self._fold(frame))
            return
        block = self._fold(frame)
        if self._resampler is None or self._resampled_rate != frame.sample_rate:
            self._drain()
            self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self._rate)
            self._resampled_rate = frame.sample_rate
        again = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self._layout)
        again.sample_rate = frame.sample_rate
        self._resampled(self._resampler.resample(again))

    def _silence(self, seconds: float) -> None:
        left = round(seconds * self._rate)
        if left:
            self._drain()
        while left > 0:
            count = min(left, _BLOCK_SAMPLES)
            self._gather(np.zeros((self._fold.channels, count), dtype=np.float32))
            left -= count

    def _drain(self) -> None:
        """Take the rest out of the resampler, and do without one until the next frame."""
        if self._resampler is not None:
            self._resampled(self._resampler.resample(None))
            self._resampler = None

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
        for block in self._track.padding(whole):
            if not block.shape[1]:
                continue
            self.sound.samples += block.shape[1]
            if self.sound.samples > (self._max_duration_s + LEEWAY_S) * self._rate:
                raise self._too_long()
            self.sound.peak = max(self.sound.peak, float(block.max()), -float(block.min()))
            self._sink(block)

    def _too_long(self) -> TooLong:
        limit = format_duration(self._max_duration_s)
        said = self._track.declared_s
        length = f"{format_duration(said)} long" if said and said > self._max_duration_s else f"longer than {limit}"
        return TooLong(f"That track is {length}. The limit is {limit}: cut it, and send the part that you want.")
