"""Where a track really begins and ends.

FFmpeg already drops encoder delay and padding where the container tells it as skip side data: the LAME header of mp3,
Opus' pre-skip, Vorbis' granules, the edit list's start. What it leaves in is the padding at the end of AAC in mp4.
"""

from __future__ import annotations

import av
from av.audio.stream import AudioStream

from engine.media.samples import Samples

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
_ROUNDING_S = 0.002  # edit lists count in the movie's time scale, often milliseconds
_LONGEST_PADDING_SAMPLES = 8192


def mov_length(container: av.container.InputContainer, stream: AudioStream) -> int | None:
    """How many samples an mp4's edit list (or iTunes' own note) leaves; None when it does not say."""
    if container.format.name != MOV:
        return None
    note = (stream.metadata.get("iTunSMPB") or container.metadata.get("iTunSMPB") or "").split()
    if len(note) >= 4:
        try:
            count = int(note[3], 16)
        except ValueError:
            count = 0
        if count > 0:
            return count
    if not stream.duration or stream.time_base is None:
        return None
    return int((float(stream.duration * stream.time_base) + _ROUNDING_S) * stream.sample_rate)


class EndTrimmer:
    """Holds back what comes after `length` samples and drops it, if it is no more than an encoder's padding. A
    `length` that the sound goes far beyond is a lie and is forgotten."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self._held: list[Samples] = []
        self._held_samples = 0

    def __call__(self, block: Samples) -> list[Samples]:
        """What may be passed on of `block`, and of what was held before."""
        if self._left is None:
            return [block]
        passed, rest = block[:, : self._left], block[:, self._left :]
        self._left -= passed.shape[1]
        if not rest.shape[1]:
            return [passed]
        self._held.append(rest)
        self._held_samples += rest.shape[1]
        if self._held_samples <= _LONGEST_PADDING_SAMPLES:
            return [passed] if passed.shape[1] else []
        released = [passed, *self._held]
        self._left, self._held = None, []
        return released
