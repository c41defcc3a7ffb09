"""Tempo and key are added to finished files, and the audio stays as it was."""

from __future__ import annotations

from pathlib import Path

import av
import mutagen
import numpy as np
import pytest

from engine.media.decode import decode
from engine.media.encode import StemEncoder
from engine.media.music_tags import add_music_tags
from tests.fixtures.songs import Samples, cover_jpeg, tune

TAGS = {"title": "Sunny (vocals)", "artist": "Ömer", "comment": "vocals"}


def encoded(path: Path) -> Path:
    with StemEncoder(path, format=path.suffix[1:], sample_rate=44100, tags=TAGS, cover=cover_jpeg()) as encoder:
        encoder.write(tune(2))
    return path


def decoded(path: Path) -> Samples:
    facts = decode(path, path.with_suffix(".raw"), max_duration_s=600)
    return np.fromfile(path.with_suffix(".raw"), "<f4").reshape(-1, facts.channels).T


def tags(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return {key.lower(): value for key, value in container.metadata.items()}


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        (".mp3", {"tbpm": "128", "tkey": "F#m"}),
        (".flac", {"bpm": "127.6", "initialkey": "F#m"}),
        (".wav", {"tbpm": "128", "tkey": "F#m"}),
    ],
)
def test_tempo_and_key_join_the_other_tags(tmp_path: Path, suffix: str, expected: dict[str, str]) -> None:
    path = encoded(tmp_path / f"a{suffix}")
    before, samples, pictures = tags(path), decoded(path), _pictures(path)
    add_music_tags(path, tempo_bpm=127.6, key="F#m")
    assert tags(path) == before | expected
    assert _pictures(path) == pictures
    np.testing.assert_array_equal(decoded(path), samples)


@pytest.mark.parametrize(("suffix", "name"), [(".mp3", "TBPM"), (".flac", "bpm"), (".wav", "TBPM")])
def test_another_library_reads_the_tempo(tmp_path: Path, suffix: str, name: str) -> None:
    path = encoded(tmp_path / f"a{suffix}")
    add_music_tags(path, tempo_bpm=90.0, key=None)
    read = mutagen.File(path)
    assert float(str(read[name][0])) == 90.0
    assert read.info.length == pytest.approx(2, abs=0.06)


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".wav"])
def test_unknown_facts_leave_the_file_unchanged(tmp_path: Path, suffix: str) -> None:
    path = encoded(tmp_path / f"a{suffix}")
    before = path.read_bytes()
    add_music_tags(path, tempo_bpm=None, key=None)
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", [".mp3", ".flac"])
def test_compressed_files_keep_their_size(tmp_path: Path, suffix: str) -> None:
    path = encoded(tmp_path / f"a{suffix}")
    before = path.stat().st_size
    add_music_tags(path, tempo_bpm=100.0, key="C")
    assert path.stat().st_size == before


def _pictures(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(next(container.demux(stream))) for stream in container.streams.video]
