"""Change key and tempo of all stems together.

The stems are channels of one stretcher, which rotates the phases of all channels by the same angles: the changed stems
then add up to the changed mix. The library keeps no state between calls and needs several copies of its input, so a
long song is stretched in parts that overlap at their quietest moments. Its own change of key is up to 10 cents off in
the bass; a change of length followed by resampling is exact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from python_stretch import Signalsmith

from engine.media.samples import Samples
from engine.mixes.resample import Resampler

_PART_VALUES = 1 << 24  # samples of all channels together, before or after, the larger one: 64 MiB a copy
_MARGIN_SAMPLES = 1 << 13  # around a part, for the first and last windows of the stretcher
_FADE_SAMPLES = 1 << 11
_SEARCH_S = 6.0
_LARGEST_DENOMINATOR = 1000  # of the pitch ratio, for an exact filter; the error is below 0.01 cents
_SMALLEST_FACTOR = 0.5
_SEED = 1  # the same stems give the same samples


@dataclass(frozen=True)
class Part:
    """A part of the song, with margins: (channels, n) samples to be stretched by `factor` to `stretched_samples`.

    The samples from `first` to before `last` (None: the end) are the part's own; the next ones are faded out.
    """

    samples: Samples
    sample_rate: int
    factor: float
    stretched_samples: int
    first: int
    last: int | None


PartMap = Callable[[Iterable[Part]], Iterable[Samples]]


def most_part_values() -> int:
    """Return the most samples, of all channels together, that a part has with its margins, stretched or not."""
    return 5 * _PART_VALUES // 4


class Stretcher:
    """Change stems, given as (2 channels for each stem, samples). `key`: semitones; `tempo`: 0.5 doubles the length.

    `stretch_parts` applies `stretch_part` to each part, in order, by default in this thread.
    """

    def __init__(
        self, channels: int, sample_rate: int, *, key: float, tempo: float, stretch_parts: PartMap | None = None
    ) -> None:
        self._stretch_parts = stretch_parts or (lambda parts: map(stretch_part, parts))
        self._channels = channels
        self._rate = sample_rate
        self._tempo = tempo
        self._pitch = Fraction(2 ** (key / 12)).limit_denominator(_LARGEST_DENOMINATOR)
        self._factor = tempo / float(self._pitch)
        self._part_samples = int(_PART_VALUES / channels * min(1.0, self._factor))
        self._search_samples = round(_SEARCH_S * sample_rate)

    def stretch(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Yield changed blocks; their total length is that of the input divided by the tempo, rounded."""
        read = done = 0

        def counted() -> Iterator[Samples]:
            nonlocal read
            for block in blocks:
                read += block.shape[1]
                yield block

        last: Samples | None = None
        for block in self._resampled(self._stretched(counted())):
            if last is not None and block.shape[1] < _FADE_SAMPLES:  # the end of the resampler
                last = np.concatenate([last, block], axis=1)
                continue
            if last is not None:
                done += last.shape[1]
                yield last
            last = block
        if last is not None:
            yield _of_length(last, round(read / self._tempo) - done)  # the resampler rounds in its own way

    def _resampled(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        if self._pitch == 1:
            yield from blocks
            return
        resampler = Resampler(self._channels // 2, self._pitch)
        for block in blocks:
            yield resampler.resample(block)
        yield resampler.resample(None)

    def _stretched(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Yield the song at another length, with the same frequencies."""
        bounds: deque[tuple[int, int | None]] = deque()

        def without_bounds() -> Iterator[Part]:
            for part in self._parts(blocks):
                bounds.append((part.first, part.last))
                yield part

        tail: Samples | None = None  # the end of the last part, to be faded out
        for stretched in self._stretch_parts(without_bounds()):
            first, last = bounds.popleft()
            body = stretched[:, first:last]
            if tail is not None:
                length = min(tail.shape[1], body.shape[1])
                angle = np.linspace(0, np.pi / 2, length, dtype=np.float32)
                # The phases of the two parts are unrelated: their powers add up, not their amplitudes.
                body[:, :length] = body[:, :length] * np.sin(angle) + tail[:, :length] * np.cos(angle)
            tail = None if last is None else stretched[:, last : last + _FADE_SAMPLES].copy()
            yield body

    def _parts(self, blocks: Iterable[Samples]) -> Iterator[Part]:
        waiting: list[Samples] = []
        waiting_from, read = 0, 0  # positions in the song: the first waiting sample, the end of the last block
        start = 0  # of the next part, without its margin
        for block in blocks:
            waiting.append(block)
            read += block.shape[1]
            while read >= start + self._part_samples + _MARGIN_SAMPLES:
                whole = np.concatenate(waiting, axis=1)
                cut = start + self._quietest(whole[:, start - waiting_from :])
                yield self._part(whole, waiting_from, start, cut)
                keep = cut - _MARGIN_SAMPLES - waiting_from
                waiting, waiting_from, start = [whole[:, keep:].copy()], waiting_from + keep, cut
        if read > waiting_from:
            yield self._part(np.concatenate(waiting, axis=1), waiting_from, start, None)

    def _quietest(self, samples: Samples) -> int:
        """Return the quietest position in the last seconds of a part."""
        first = self._part_samples - min(self._search_samples, self._part_samples // 2)
        mono = np.abs(samples[:, first : self._part_samples]).sum(axis=0, dtype=np.float64)
        sums = np.cumsum(mono)
        levels = sums[_FADE_SAMPLES:] - sums[:-_FADE_SAMPLES]
        return first + int(np.argmin(levels)) + _FADE_SAMPLES // 2

    def _part(self, waiting: Samples, waiting_from: int, start: int, cut: int | None) -> Part:
        """Return the part from `start` to before `cut` (None: the end), where `waiting` begins at `waiting_from`."""
        stop = waiting_from + waiting.shape[1] if cut is None else cut + _MARGIN_SAMPLES
        origin = self._position(waiting_from)
        half = _FADE_SAMPLES // 2
        return Part(
            samples=waiting[:, : stop - waiting_from],
            sample_rate=self._rate,
            factor=self._factor,
            stretched_samples=self._position(stop) - origin,
            first=self._position(start) - (half if start else 0) - origin,
            last=None if cut is None else self._position(cut) - half - origin,
        )

    def _position(self, samples: int) -> int:
        return round(samples / self._factor)


def stretch_part(part: Part) -> Samples:
    """Return a part at its new length; the library's own rounding may give one sample more or less."""
    # One step to more than twice the length would be several cents off.
    steps = 1 if part.factor >= _SMALLEST_FACTOR else 2
    samples = part.samples
    for _ in range(steps):
        stretcher = Signalsmith.Stretch(_SEED)  # a used one keeps its random state
        # The cheaper preset is as close to the spectrum of real songs (within 1 dB) for 60 % of the work.
        stretcher.preset(samples.shape[0], float(part.sample_rate), cheaper=True)
        stretcher.setTimeFactor(part.factor ** (1 / steps))
        samples = np.asarray(stretcher.process(np.ascontiguousarray(samples)))
    return _of_length(samples, part.stretched_samples)


def _of_length(samples: Samples, length: int) -> Samples:
    """Cut samples, or add silence."""
    return np.pad(samples[:, :length], ((0, 0), (0, max(0, length - samples.shape[1]))))
