from __future__ import annotations

import pytest

from engine.music.names import camelot, chord_name, key_name, short_key_name


@pytest.mark.parametrize(
    ("tonic", "is_minor", "name", "short", "code"),
    [
        (0, False, "C major", "C", "8B"),
        (9, True, "A minor", "Am", "8A"),
        (7, False, "G major", "G", "9B"),
        (6, True, "F# minor", "F#m", "11A"),
        (1, False, "Db major", "Db", "3B"),
        (10, True, "Bb minor", "Bbm", "3A"),
        (8, True, "G# minor", "G#m", "1A"),
        (4, False, "E major", "E", "12B"),
    ],
)
def test_key_has_name_and_camelot_code(tonic: int, is_minor: bool, name: str, short: str, code: str) -> None:
    assert (key_name(tonic, is_minor), short_key_name(tonic, is_minor), camelot(tonic, is_minor)) == (name, short, code)


def test_every_key_has_another_camelot_code() -> None:
    assert len({camelot(tonic, is_minor) for tonic in range(12) for is_minor in (False, True)}) == 24


def test_relative_keys_share_a_camelot_number() -> None:
    for tonic in range(12):
        assert camelot(tonic, False)[:-1] == camelot((tonic + 9) % 12, True)[:-1]


def test_chords_are_spelled_as_the_key_wants() -> None:
    assert chord_name(10, False, key=(5, False)) == "Bb"
    assert chord_name(10, True, key=(6, False)) == "A#m"
    assert chord_name(3, False, key=(7, True)) == "Eb", "G minor has flats"
    assert chord_name(0, True) == "Cm"
