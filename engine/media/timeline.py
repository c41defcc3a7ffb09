"""Timestamps of a track: where it starts, and the gaps that lost or unsent packets leave in it."""

from __future__ import annotations

import av

_SHORTEST_GAP_S = 0.008  # shorter steps are rounding (Matroska counts milliseconds) or jitter of a recorder
_LARGEST_OVERLAP_S = 0.1  # a larger step back is a new clock


class Timeline:
    """Follows the timestamps of decoded frames."""

    def __init__(self, longest_gap_s: float, first_page_end_s: float | None = None) -> None:
        """`longest_gap_s`: a longer step is an error of the timestamps, not a gap. `first_page_end_s`: a step to this
        time is a late start."""
        self.start_s = 0.0
        self.skipped_s = 0.0
        """Sum of the steps that were longer than a gap can be."""
        self._longest_gap_s = longest_gap_s
        self._first_page_end_s = first_page_end_s
        self._frame_end_s: float | None = None
        self._sound_end_s = 0.0  # as `_frame_end_s`, with the length of the sound in place of the timestamps

    def gap_before(self, frame: av.AudioFrame) -> float:
        """Seconds of silence to insert before the next frame, so that it stays at its time.

        A step counts only as far as the sound is behind the timestamps, so that jitter does not add up.
        """
        length_s = frame.samples / frame.sample_rate
        at_s = frame.time
        if self._frame_end_s is None:
            self.start_s = self._frame_end_s = self._sound_end_s = 0.0 if at_s is None else at_s
        if at_s is None:
            at_s = self._frame_end_s
        step_s = at_s - self._frame_end_s
        gap_s = 0.0
        if self._first_page_end_s is not None and abs(at_s - self._first_page_end_s) < _SHORTEST_GAP_S:
            self.start_s += step_s
            self._sound_end_s = at_s
            self._first_page_end_s = None
        elif step_s > self._longest_gap_s or step_s < -_LARGEST_OVERLAP_S:
            self.skipped_s += max(0.0, step_s)
            self._sound_end_s = at_s
        elif (due_s := min(step_s, at_s - self._sound_end_s)) > _SHORTEST_GAP_S:
            gap_s = due_s
        self._frame_end_s = at_s + length_s
        self._sound_end_s += gap_s + length_s
        return gap_s
