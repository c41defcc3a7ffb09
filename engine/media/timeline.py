"""Where a track starts and ends, and the gaps that lost or unsent packets leave in it.

FFmpeg already drops encoder delay and padding that the container states as skip side data: the LAME header of mp3,
Opus' pre-skip, Vorbis' granules, the start of an edit list. It keeps the padding at the end of AAC in mp4.
"""

from __future__ import annotations

import av
from av.audio.stream import AudioStream

from engine.media.headers import MOV
from engine.media.samples import Samples

_SHORTEST_GAP_S = 0.008  # shorter steps are rounding (Matroska counts milliseconds) or the recorder's jitter
_LARGEST_OVERLAP_S = 0.1  # a larger step back is a new clock
_ROUNDING_S = 0.002  # edit lists count in the movie's time scale, often milliseconds
_LONGEST_PADDING_SAMPLES = 8192


class Timeline:
    """Follows the timestamps of decoded frames."""

    def __init__(self, longest_gap_s: float, first_page_end_s: float | None = None) -> None:
        """Start with no frames seen.

        `longest_gap_s`: a longer step is an error of the timestamps, not a gap. `first_page_end_s`: a step to this
        time is a late start.
        """
        self.start_s = 0.0
        self.skipped_s = 0.0
        """Sum of the steps longer than `longest_gap_s`."""
        self._longest_gap_s = longest_gap_s
        self._first_page_end_s = first_page_end_s
        self._frame_end_s: float | None = None
        self._audio_end_s = 0.0  # as `_frame_end_s`, by the length of the audio instead of the timestamps

    def gap_before(self, frame: av.AudioFrame) -> float:
        """Return the seconds of silence to insert before `frame` to keep it at its time.

        A step counts only as far as the audio is behind the timestamps, or jitter would add up.
        """
        length_s = frame.samples / frame.sample_rate
        at_s = frame.time
        if self._frame_end_s is None:
            self.start_s = self._frame_end_s = self._audio_end_s = 0.0 if at_s is None else at_s
        if at_s is None:
            at_s = self._frame_end_s
        step_s = at_s - self._frame_end_s
        gap_s = 0.0
        if self._first_page_end_s is not None and abs(at_s - self._first_page_end_s) < _SHORTEST_GAP_S:
            self.start_s += step_s
            self._audio_end_s = at_s
            self._first_page_end_s = None
        elif step_s > self._longest_gap_s or step_s < -_LARGEST_OVERLAP_S:
            self.skipped_s += max(0.0, step_s)
            self._audio_end_s = at_s
        elif (due_s := min(step_s, at_s - self._audio_end_s)) > _SHORTEST_GAP_S:
            gap_s = due_s
        self._frame_end_s = at_s + length_s
        self._audio_end_s += gap_s + length_s
        return gap_s


def mov_length(container: av.container.InputContainer, stream: AudioStream) -> int | None:
    """Return the number of samples stated by an mp4's edit list or iTunes' comment; None if it states none."""
    if container.format.name != MOV:
        return None
    comment = (stream.metadata.get("iTunSMPB") or container.metadata.get("iTunSMPB") or "").split()
    if len(comment) >= 4:
        try:
            count = int(comment[3], 16)
        except ValueError:
            count = 0
        if count > 0:
            return count
    if not stream.duration or stream.duration < 0 or stream.time_base is None:
        return None
    return int((float(stream.duration * stream.time_base) + _ROUNDING_S) * stream.sample_rate)


class EndTrimmer:
    """Drop samples after `length` if they are few enough to be an encoder's padding.

    A `length` that the audio far exceeds is wrong and is ignored.
    """

    def __init__(self, length: int | None) -> None:
        self._left = length
        self._held: list[Samples] = []
        self._held_samples = 0

    def __call__(self, block: Samples) -> list[Samples]:
        """Return the samples to pass on: from `block`, and any held back before."""
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
