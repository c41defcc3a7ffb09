"""Read our own stem files in blocks, together. It runs in the child process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.audio.stream import AudioStream
from av.stream import Disposition

from engine.errors import BrokenAudio
from engine.jobs.file_types import DEMUXERS
from engine.media.samples import ChannelMixer, Samples
from engine.media.tags import read_tags, usable_cover
from engine.media.track import CODECS

BLOCK_SAMPLES = 1 << 16
_SEEK_MARGIN_S = 0.5
_OPTIONS = {"format_whitelist": ",".join(DEMUXERS), "codec_whitelist": CODECS, "protocol_whitelist": "none"}


class StemReader:
    """One stem as stereo blocks. Raises `BrokenAudio`."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "rb")
        try:
            self._container = av.open(self._file, "r", options=_OPTIONS, metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            self._file.close()
            raise _damaged(error) from error
        streams = self._container.streams.audio
        if not streams:
            raise BrokenAudio("A stem has no audio track.")
        self._stream: AudioStream = streams[0]
        self._stream.codec_context.thread_count = 1
        self.sample_rate = self._stream.sample_rate
        self.tags = read_tags(self._container, self._stream)
        self._mixer = ChannelMixer()
        self._frames = self._container.decode(self._stream)
        # Frames of mp3 have 1152 samples; a conversion of each would take longer than the decoding.
        self._fifo = av.AudioFifo()
        self._is_at_end = False

    def cover(self) -> bytes | None:
        """Return the attached picture; call it before the first `read`."""
        pictures = [each for each in self._container.streams.video if each.disposition & Disposition.attached_pic]
        for packet in self._container.demux(*pictures) if pictures else ():
            if packet.size:
                self._container.seek(0)
                return usable_cover(bytes(packet))
        return None

    def read(self, count: int) -> Samples:
        """Return the next `count` samples, (2, n); fewer only at the end."""
        try:
            while self._fifo.samples < count and not self._is_at_end:
                frame = next(self._frames, None)
                if frame is None:
                    self._is_at_end = True
                else:
                    frame.pts = None
                    self._fifo.write(frame)
            frame = self._fifo.read(count, partial=True)
        except (av.FFmpegError, ValueError) as error:
            raise _damaged(error) from error
        if frame is None:
            return np.zeros((2, 0), np.float32)
        block = self._mixer(frame)
        return block if block.shape[0] == 2 else np.repeat(block, 2, axis=0)

    def seek(self, sample: int) -> None:
        """Continue with `sample` at the next `read`; beyond the end there is nothing to read."""
        # The first frames after a seek lack what an mp3 keeps in earlier ones.
        target_s = max(0.0, sample / self.sample_rate - _SEEK_MARGIN_S)
        start = self._stream.start_time or 0
        tick = self._stream.time_base
        assert tick is not None
        try:
            self._container.seek(start + int(target_s / tick), stream=self._stream)
        except (av.FFmpegError, ValueError) as error:
            raise _damaged(error) from error
        self._frames = self._container.decode(self._stream)
        self._fifo = av.AudioFifo()
        self._is_at_end = False
        first = next(self._frames, None)
        if first is None or first.pts is None:
            self._is_at_end = True
            return
        skip = sample - round((first.pts - start) * tick * self.sample_rate)
        first.pts = None
        self._fifo.write(first)
        while skip > 0 and (skipped := self.read(min(skip, BLOCK_SAMPLES)).shape[1]):
            skip -= skipped

    def close(self) -> None:
        self._container.close()
        self._file.close()


class StemsReader:
    """All stems of a job as blocks of (2 channels for each stem, samples)."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        """Open the stems. Raises `BrokenAudio`."""
        self._stack = ExitStack()
        self.stems: list[StemReader] = []
        for descriptor in descriptors:
            stem = StemReader(descriptor)
            self._stack.callback(stem.close)
            self.stems.append(stem)
        self.sample_rate = self.stems[0].sample_rate
        if any(stem.sample_rate != self.sample_rate for stem in self.stems):
            raise BrokenAudio("The stems have different sample rates.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def seek(self, sample: int) -> None:
        """Continue with `sample` at the next `read`."""
        for stem in self.stems:
            stem.seek(sample)

    def read(self, count: int) -> Samples:
        """Return the next `count` samples; fewer only at the end of the longest stem."""
        parts = [stem.read(count) for stem in self.stems]
        length = max(part.shape[1] for part in parts)
        # A shorter stem ends with silence.
        return np.concatenate([np.pad(part, ((0, 0), (0, length - part.shape[1]))) for part in parts])

    def blocks(self, start: int, stop: int | None) -> Iterator[Samples]:
        """Yield the samples from `start` to before `stop` (None: to the end of the longest stem)."""
        at = 0
        while stop is None or at < stop:
            count = BLOCK_SAMPLES if stop is None else min(BLOCK_SAMPLES, stop - at)
            block = self.read(count)
            length = block.shape[1]
            if not length:
                return
            if at + length > start:
                yield block[:, max(0, start - at) :]
            at += length


def _damaged(error: Exception) -> BrokenAudio:
    return BrokenAudio("A stem of this song is damaged. Separate the song again.", detail=f"{error}"[:300])
