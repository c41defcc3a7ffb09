"""Names of keys and chords: "F# minor", "F#m", and the Camelot code in which DJs compare keys."""

from __future__ import annotations

_SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_MAJOR_KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_MINOR_KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
_MAJOR_KEYS_WITH_FLATS = {1, 3, 5, 8, 10}


def key_name(tonic: int, is_minor: bool) -> str:
    """Return the name of a key; pitch class 0 is C."""
    return f"{_MINOR_KEYS[tonic]} minor" if is_minor else f"{_MAJOR_KEYS[tonic]} major"


def short_key_name(tonic: int, is_minor: bool) -> str:
    """Return the name of a key as in the tag TKEY."""
    return f"{_MINOR_KEYS[tonic]}m" if is_minor else _MAJOR_KEYS[tonic]


def camelot(tonic: int, is_minor: bool) -> str:
    """Return the Camelot code of a key: 8A is A minor, 8B C major, and a fifth up is one more."""
    major = (tonic + 3) % 12 if is_minor else tonic
    return f"{(7 * major + 7) % 12 + 1}{'A' if is_minor else 'B'}"


def chord_name(root: int, is_minor: bool, *, key: tuple[int, bool] | None = None) -> str:
    """Return the name of a chord, spelled with flats in keys with flats."""
    major = 0 if key is None else (key[0] + 3) % 12 if key[1] else key[0]
    notes = _FLATS if major in _MAJOR_KEYS_WITH_FLATS else _SHARPS
    return notes[root] + ("m" if is_minor else "")
