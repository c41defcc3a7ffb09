"""What the composer knows about its song: tempo, beats, key and chords, as the truth for measurements."""

from __future__ import annotations

from dataclasses import dataclass

BEATS_PER_BAR = 4


@dataclass(frozen=True)
class TrueChord:
    """A triad: `root` is a pitch class (0 is C), `intervals` the semitones of its third and fifth."""

    start_s: float
    end_s: float
    root: int
    intervals: tuple[int, int]

    @property
    def is_minor(self) -> bool:
        return self.intervals[0] == 3

    @property
    def is_diminished(self) -> bool:
        return self.intervals[1] == 6


@dataclass(frozen=True)
class MusicTruth:
    """Musical facts of a song in four-four time. `scale` has the semitones of its seven notes above `tonic`."""

    tempo_bpm: float
    groove: str
    tonic: int
    scale: tuple[int, ...]
    beats_s: tuple[float, ...]
    downbeats_s: tuple[float, ...]
    chords: tuple[TrueChord, ...]

    @property
    def is_minor(self) -> bool:
        """Whether the third above the tonic is minor, as in the minor and the Dorian scale."""
        return self.scale[2] == 3

    @property
    def notes(self) -> frozenset[int]:
        """The pitch classes of the scale."""
        return frozenset((self.tonic + step) % 12 for step in self.scale)


def truth_of(
    *, bar_s: float, groove: str, tonic: int, scale: tuple[int, ...], progression: tuple[int, ...], duration_s: float
) -> MusicTruth:
    """Return the facts of a song with one chord per bar."""
    beat_s = bar_s / BEATS_PER_BAR
    beats = tuple(beat_s * number for number in range(int(duration_s / beat_s) + 1) if beat_s * number < duration_s)
    chords = []
    for bar, start_s in enumerate(beats[::BEATS_PER_BAR]):
        degree = progression[bar % len(progression)]
        root, third, fifth = (_semitones(scale, degree + step) for step in (0, 2, 4))
        end_s = min(start_s + bar_s, duration_s)
        chords.append(TrueChord(start_s, end_s, (tonic + root) % 12, (third - root, fifth - root)))
    return MusicTruth(60 / beat_s, groove, tonic, scale, beats, beats[::BEATS_PER_BAR], tuple(chords))


def _semitones(scale: tuple[int, ...], degree: int) -> int:
    return scale[degree % 7] + 12 * (degree // 7)
