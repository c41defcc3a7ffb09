"""The frequency bands of the RoFormer networks, as ranges of STFT bins."""

from __future__ import annotations

from collections.abc import Sequence

MEL_FFT_SAMPLES, MEL_SAMPLE_RATE = 2048, 44100
"""The only transform for which the table below holds."""

# The first and last bin of the 60 filters of a Mel bank in Slaney's form, from 0 to 22,050 Hz: where they are above 0.
_MEL_EDGES = (
    (0, 6),
    (4, 9),
    (7, 12),
    (10, 15),
    (13, 18),
    (16, 21),
    (19, 24),
    (22, 27),
    (25, 30),
    (28, 33),
    (31, 36),
    (34, 39),
    (37, 42),
    (40, 45),
    (43, 48),
    (46, 52),
    (49, 55),
    (53, 59),
    (56, 64),
    (60, 68),
    (65, 73),
    (69, 78),
    (74, 83),
    (79, 89),
    (84, 96),
    (90, 102),
    (97, 109),
    (103, 117),
    (110, 125),
    (118, 134),
    (126, 144),
    (135, 154),
    (145, 164),
    (155, 176),
    (165, 188),
    (177, 202),
    (189, 216),
    (203, 231),
    (217, 247),
    (232, 264),
    (248, 283),
    (265, 303),
    (284, 324),
    (304, 347),
    (325, 371),
    (348, 397),
    (372, 425),
    (398, 454),
    (426, 486),
    (455, 520),
    (487, 557),
    (521, 596),
    (558, 637),
    (597, 682),
    (638, 730),
    (683, 781),
    (731, 835),
    (782, 894),
    (836, 957),
    (895, 1024),
)


def mel_bands() -> tuple[range, ...]:
    """Return the 60 overlapping bands of Mel-Band RoFormer."""
    return tuple(range(first, last + 1) for first, last in _MEL_EDGES)


def adjacent_bands(sizes: Sequence[int]) -> tuple[range, ...]:
    """Return bands of these sizes, one after another from bin 0, as in BS-RoFormer."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))
