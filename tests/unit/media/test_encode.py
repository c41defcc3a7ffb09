"""Encoded stems have the exact length, appear only when complete, and are tagged."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from engine.errors import StorageFailed
from engine.media.decode import decode
from engine.media.encode import EncodedFile, StemEncoder
from engine.media.tags import stem_tags
from tests.fixtures.songs import Samples, cover_jpeg, tune


def encoded(path: Path, mix: Samples, *, block: int = 7001, bits: int = 24, cover: bytes | None = None) -> EncodedFile:
    with StemEncoder(path, format=path.suffix[1:], sample_rate=44100, bits=bits, cover=cover) as encoder:
        for start in range(0, mix.shape[1], block):
            encoder.write(mix[:, start : start + block])
    assert encoder.encoded is not None
    return encoder.encoded


def decoded(path: Path) -> Samples:
    facts = decode(path, path.with_suffix(".raw"), max_duration_s=600)
    return np.fromfile(path.with_suffix(".raw"), "<f4").reshape(-1, facts.channels).T


@pytest.mark.parametrize(("suffix", "bits"), [(".wav", 24), (".wav", 16), (".flac", 24), (".flac", 16)])
@pytest.mark.parametrize("samples", [1, 1151, 44100])
def test_lossless_stems_are_exact(tmp_path: Path, suffix: str, bits: int, samples: int) -> None:
    mix = tune(1)[:, :samples]
    encoded(tmp_path / f"a{suffix}", mix, bits=bits)
    once = decoded(tmp_path / f"a{suffix}")
    assert once.shape == mix.shape
    assert np.abs(once - mix).max() <= 0.5001 / 2 ** (bits - 1)
    encoded(tmp_path / f"b{suffix}", once, bits=bits)
    assert np.array_equal(decoded(tmp_path / f"b{suffix}"), once)


@pytest.mark.parametrize("samples", [1000, 44100 - 13])
def test_mp3_stems_are_gapless(tmp_path: Path, samples: int) -> None:
    mix = tune(1)[:, :samples]
    facts = encoded(tmp_path / "a.mp3", mix)
    actual = decoded(tmp_path / "a.mp3")
    assert actual.shape == mix.shape
    assert facts.bitrate == 320_000
    if samples > 5000:
        shifted = [np.square(np.roll(actual, by, axis=1) - mix).sum() for by in (-2, -1, 0, 1, 2)]
        assert np.argmin(shifted) == 2
        assert 10 * np.log10(np.square(mix).sum() / shifted[2]) > 20


def test_one_sample_makes_an_mp3_of_one_frame(tmp_path: Path) -> None:
    assert encoded(tmp_path / "a.mp3", tune(1)[:, :1]).samples == 1
    assert 1 <= decoded(tmp_path / "a.mp3").shape[1] <= 1152 - 1105


def test_block_size_does_not_change_the_file(tmp_path: Path) -> None:
    mix = tune(0.7)
    for suffix in (".wav", ".flac", ".mp3"):
        encoded(tmp_path / f"a{suffix}", mix, block=311)
        encoded(tmp_path / f"b{suffix}", mix, block=10**6)
        assert np.array_equal(decoded(tmp_path / f"a{suffix}"), decoded(tmp_path / f"b{suffix}"))


def test_clipped_samples_are_counted_and_peak_is_true(tmp_path: Path) -> None:
    mix = np.array([[0.5, 1.0, 1.5, -1.0, -3.0], [0, 0, 0, 0, np.nan]], dtype=np.float32)
    facts = encoded(tmp_path / "a.wav", mix)
    assert (facts.clipped_samples, facts.peak) == (2, 3.0)
    assert decoded(tmp_path / "a.wav")[0].tolist() == pytest.approx([0.5, 1, 1, -1, -1], abs=1e-6)
    assert decoded(tmp_path / "a.wav")[1, 4] == 0


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
def test_stem_has_song_tags_and_model_comment(tmp_path: Path, suffix: str) -> None:
    tags = stem_tags(
        {"title": "old", "album": "Süd", "comment": "buy me", "artist": "Band"},
        title="Sünny",
        stem="vocals",
        model="htdemucs",
    )
    path = tmp_path / f"a{suffix}"
    with StemEncoder(path, format=suffix[1:], sample_rate=44100, tags=tags, cover=cover_jpeg()) as encoder:
        encoder.write(tune(0.2))
    with av.open(str(path)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
        pictures = [stream for stream in container.streams if stream.type == "video"]
    assert tags["title"] == "Sünny (vocals)"
    assert (tags["artist"], tags["album"]) == ("Band", "Süd")
    assert tags["comment"] == "vocals, separated with htdemucs by Stemify"
    assert len(pictures) == (0 if suffix == ".wav" else 1)
    assert decode(path, tmp_path / "raw", max_duration_s=9).cover == (None if suffix == ".wav" else cover_jpeg())


def test_file_appears_only_when_complete(tmp_path: Path) -> None:
    encoder = StemEncoder(tmp_path / "a.flac", format="flac", sample_rate=44100)
    encoder.write(tune(0.2))
    assert not (tmp_path / "a.flac").exists()
    assert encoder.close() == encoder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]


def test_aborted_encoder_leaves_nothing(tmp_path: Path) -> None:
    for suffix in ("wav", "flac", "mp3"):
        with pytest.raises(RuntimeError), StemEncoder(tmp_path / "a", format=suffix, sample_rate=44100) as encoder:
            encoder.write(tune(0.2))
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_four_stems_encode_in_parallel_threads(tmp_path: Path) -> None:
    mixes = [tune(1, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda at: encoded(tmp_path / f"{at}.flac", mixes[at]), range(4)))
    for at, mix in enumerate(mixes):
        assert np.abs(decoded(tmp_path / f"{at}.flac") - mix).max() < 1e-6


def test_missing_folder_is_storage_failure(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        StemEncoder(tmp_path / "missing" / "a.wav", format="wav", sample_rate=44100)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_full_disk_raises_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    """A limit on the file size simulates a full disk, at several positions in the file."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from engine.errors import DiskFull\n"
        "from engine.media.encode import StemEncoder\n"
        "from tests.fixtures.songs import tune\n"
        "mix = tune(2)\n"
        "for limit in (0, 100, 40_000, 70_000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        with StemEncoder(Path(sys.argv[1]), format=sys.argv[2], sample_rate=44100) as encoder:\n"
        "            encoder.write(mix)\n"
        "    except DiskFull:\n"
        "        continue\n"
        "    sys.exit(f'no error at {limit}')\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a"), suffix], check=True, cwd=root, timeout=60)
    assert list(tmp_path.iterdir()) == []
