"""The song of a voice channel: decode its stems, sum them, encode Opus. It runs in the child process."""

from __future__ import annotations

from collections import deque

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext

from engine.media.samples import Samples
from engine.mixes.reader import StemsReader
from engine.voice.protocol import FRAME_S, SILENCE, Command, Packet, PacketKind
from engine.voice.ramp import Ramp

OPUS_RATE = 48_000
_FRAME_SAMPLES = round(OPUS_RATE * FRAME_S)
_BIT_RATE = 160_000
_FRAMES_AT_ONCE = 10  # that are read; one by one, the conversions would cost more than the decoding


class Song:
    """The stems of one song as packets, with changes by commands."""

    def __init__(self, stems: list[int], *, level: float, start_s: float) -> None:
        """Open the stems. `level` brings their sum to the level of the song. Raises `BrokenAudio`."""
        self._reader = StemsReader(stems)
        self._rate = self._reader.sample_rate
        self._level = np.float32(level)
        self._gains = [Ramp(1.0, self._rate) for _ in stems]
        self._volume = Ramp(1.0, self._rate)
        self._fade = Ramp(0.0, self._rate)  # before and after a pause or a seek
        self._position = 0  # in samples of the stems
        self._ahead = np.zeros((2 * len(stems), 0), np.float32)  # read, but not played
        self._seek: int | None = round(start_s * self._rate) if start_s else None
        self._loop: tuple[int, int] | None = None
        self._is_paused = False
        self._has_ended = False
        self._resampler = av.AudioResampler("flt", "stereo", OPUS_RATE, frame_size=_FRAME_SAMPLES)
        self._encoder = _open_encoder()
        self._waiting: deque[Packet] = deque()

    def close(self) -> None:
        self._reader.close()

    def apply(self, command: Command) -> None:
        """Change what is played. Unless it is a change of the gains or the volume, it begins with a fade."""
        for ramp, gain in zip(self._gains, command.gains or (), strict=False):
            ramp.set(gain)
        if command.volume is not None:
            self._volume.set(command.volume)
        if command.is_paused is not None:
            self._is_paused = command.is_paused
        if command.loop_s is not None:
            start, end = (round(at_s * self._rate) for at_s in command.loop_s)
            self._loop = (start, end) if end > start else None
        if command.seek_s is not None:
            self._seek = max(0, round(command.seek_s * self._rate))
            self._has_ended = False

    def next_packet(self) -> Packet:
        """Return the next 20 ms. Raises `BrokenAudio`."""
        while not self._waiting:
            if self._has_ended:
                return Packet(PacketKind.ENDED, self._position / self._rate, SILENCE)
            if self._fade.is_silent:
                self._jump()
                if self._is_paused:
                    return Packet(PacketKind.PAUSED, self._position / self._rate, SILENCE)
            self._fade.set(0.0 if self._is_paused or self._is_leaving else 1.0)
            self._add_packets()
        return self._waiting.popleft()

    @property
    def _is_leaving(self) -> bool:
        """Whether another position is next."""
        return self._seek is not None or (self._loop is not None and self._position >= self._loop[1])

    def _jump(self) -> None:
        target = self._seek
        if target is None and self._is_leaving and self._loop is not None:
            target = self._loop[0]
        if target is not None:
            self._reader.seek(target)
            self._ahead = self._ahead[:, :0]
            self._position, self._seek = target, None

    def _add_packets(self) -> None:
        position_s = self._position / self._rate
        count = round(self._rate * FRAME_S)
        block = self._read(count)
        self._position += block.shape[1]
        if block.shape[1] < count:
            block = np.pad(block, ((0, 0), (0, 2 * count - block.shape[1])))  # the resampler keeps some samples
            self._end()
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(self._sum(block)), "fltp", "stereo")
        frame.sample_rate = self._rate
        for resampled in self._resampler.resample(frame):
            resampled.pts = None
            packets = self._encoder.encode(resampled)
            self._waiting += [Packet(PacketKind.AUDIO, position_s, bytes(packet)) for packet in packets]

    def _read(self, count: int) -> Samples:
        """Return the next samples of all stems; fewer than `count` only at the end."""
        if not self._ahead.shape[1]:
            self._ahead = self._reader.read(_FRAMES_AT_ONCE * count)
        block, self._ahead = self._ahead[:, :count], self._ahead[:, count:]
        return block

    def _end(self) -> None:
        if self._loop is not None and self._seek is None:
            self._seek = self._loop[0]
        self._has_ended = self._seek is None
        self._fade = Ramp(0.0, self._rate)

    def _sum(self, block: Samples) -> Samples:
        length = block.shape[1]
        total = np.zeros((2, length), np.float32)
        for stem, ramp in enumerate(self._gains):
            gain = ramp.next(length)
            if not (isinstance(gain, np.float32) and gain == 0):
                total += block[2 * stem : 2 * stem + 2] * gain
        total *= self._level * self._volume.next(length) * self._fade.next(length)
        return np.clip(total, -1, 1)


def _open_encoder() -> AudioCodecContext:
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate = OPUS_RATE
    encoder.layout = "stereo"
    encoder.format = "flt"
    encoder.bit_rate = _BIT_RATE
    encoder.options = {"frame_duration": "20", "application": "audio"}
    encoder.open()
    return encoder
