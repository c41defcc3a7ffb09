"""The truth of a song agrees with its notes."""

from __future__ import annotations

import numpy as np
import pytest

from engine.synth.song import GROOVES, compose


@pytest.mark.parametrize("seed", range(12))
def test_truth_agrees_with_the_notes(seed: int) -> None:
    score = compose(np.random.default_rng(seed), 20.0)
    truth = score.truth
    assert truth.groove in GROOVES
    np.testing.assert_allclose(np.diff(truth.beats_s), 60 / truth.tempo_bpm)
    kicks = np.array([hit.start_s for hit in score.drums if hit.piece == "kick"])
    assert max(np.abs(kicks - time).min() for time in truth.downbeats_s) < 0.02, "every groove has a kick there"
    for note in (*score.bass, *score.chords, *score.vocals):
        assert note.midi % 12 in truth.notes
    for chord in truth.chords:
        begin, end = chord.start_s - 0.02, chord.end_s - 0.05
        played = {int(note.midi % 12) for note in score.chords if begin < note.start_s < end}
        tones = {chord.root, *((chord.root + interval) % 12 for interval in chord.intervals)}
        bass = {int(note.midi % 12) for note in score.bass if begin < note.start_s < end}
        assert bass <= tones <= played or len(played) < 3


def test_chords_cover_the_song() -> None:
    truth = compose(np.random.default_rng(1), 13.0).truth
    assert truth.chords[0].start_s == 0 and truth.chords[-1].end_s == 13.0
    for before, after in zip(truth.chords, truth.chords[1:], strict=False):
        assert before.end_s == pytest.approx(after.start_s)
