"""Training examples: crops of rendered stems, remixed across songs and augmented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.synth.synthesizer import SAMPLE_RATE

SCALE = 32767.0
DRUMS, BASS, VOCALS = 0, 1, 3  # indices of the stems


class SongFolder:
    """The songs under a folder, each an int16 array `(4, 2, samples)`; `scan` finds new ones.

    `sung` are those with a singer (a file named band-… has none).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.songs: list[NDArray[np.int16]] = []
        self.sung: list[NDArray[np.int16]] = []
        self._known: set[Path] = set()
        self.scan()

    def scan(self) -> int:
        """Open new songs, in order of their names; return the number of songs."""
        for path in sorted(set(self.root.glob("*.npy")) - self._known):
            self._known.add(path)
            self.songs.append(np.load(path, mmap_mode="r"))
            if not path.name.startswith("band-"):
                self.sung.append(self.songs[-1])
        return len(self.songs)


def crop(song: NDArray[np.int16], stem: int, start: int, length: int) -> NDArray[np.float32]:
    return song[stem, :, start : start + length].astype(np.float32) / SCALE


def _stretched(audio: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Resample `audio` to `(2, length)`: pitch and tempo change together."""
    places = np.linspace(0, audio.shape[1] - 1, length)
    return np.stack([np.interp(places, np.arange(audio.shape[1]), side) for side in audio]).astype(np.float32)


def _driven(audio: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Overdrive `audio` at the same loudness, which adds overtones."""
    rms = float(np.sqrt((audio**2).mean())) + 1e-6
    out = np.tanh(audio * (rng.uniform(0.7, 4) / rms) + rng.uniform(-0.5, 0.5))
    out -= out.mean(1, keepdims=True)
    return np.asarray(out * (rms / (float(np.sqrt((out**2).mean())) + 1e-6)), np.float32)


def _equalized(audio: NDArray[np.float32], rng: np.random.Generator, stem: int) -> NDArray[np.float32]:
    """Equalize `audio` at random and at the same loudness, as another room or instrument would.

    Drums and bass of unseen instruments differ most from those seen, so they are changed most: a bass may be carried by
    its overtones, a bass drum may boom.
    """
    range_db = 14 if stem in (DRUMS, BASS) else 7
    octaves = np.log2(np.fft.rfftfreq(audio.shape[1], 1 / SAMPLE_RATE) + 20)
    points = np.linspace(octaves[0], octaves[-1], 7)
    gains_db = np.interp(octaves, points, rng.uniform(-range_db, range_db, len(points)))
    if stem == BASS and rng.uniform() < 0.5:
        gains_db += rng.uniform(0, 7) * np.clip(octaves - np.log2(80), 0, 3.5)
    if stem == DRUMS and rng.uniform() < 0.5:
        gains_db += rng.uniform(0, 12) * np.exp(-(((octaves - np.log2(rng.uniform(55, 100))) / 0.3) ** 2))
    out = np.fft.irfft(np.fft.rfft(audio) * 10 ** (gains_db / 20), audio.shape[1])
    loudness = np.sqrt((audio**2).mean() / ((out**2).mean() + 1e-12))
    return np.asarray(out * loudness, np.float32)


def example(folder: SongFolder, length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the four stems `(4, 2, length)` of one training mix."""
    together = rng.uniform() < 0.5
    common_speed = float(rng.uniform(0.8, 1.2)) if rng.uniform() < 0.4 else 1.0
    longest = int(np.ceil(length * 1.3))
    first = folder.songs[rng.integers(len(folder.songs))]
    begin = int(rng.integers(0, max(1, first.shape[2] - longest)))
    stems = np.zeros((4, 2, length), np.float32)
    for stem in range(4):
        song, start = first, begin
        songs = folder.sung if stem == VOCALS else folder.songs
        if songs and (not together or (stem == VOCALS and not song[stem].any())):
            song = songs[rng.integers(len(songs))]
            start = int(rng.integers(0, max(1, song.shape[2] - longest)))
        speed = common_speed
        if rng.uniform() < 0.4 and (stem == DRUMS or (stem == BASS and not together)):
            speed = float(rng.uniform(0.75, 1.3))  # simulates larger and smaller instruments
        needed = int(np.ceil(length * speed))
        audio = crop(song, stem, start, needed)
        if speed != 1.0:
            audio = _stretched(audio, length)
        if rng.uniform() < (0.03 if together else 0.06):
            continue  # a silent stem teaches the others not to leak into it
        if rng.uniform() < (0.35 if stem == BASS else 0.1):
            audio = _driven(audio, rng)
        if rng.uniform() < (0.5 if stem in (DRUMS, BASS) else 0.35) and audio.shape[1] == length:
            audio = _equalized(audio, rng, stem)
        if rng.uniform() < 0.5:
            audio = audio[::-1]
        if rng.uniform() < 0.2:
            audio = audio * rng.uniform(0.4, 1.0, (2, 1)).astype(np.float32)
        if rng.uniform() < 0.5:
            audio = -audio
        gain = rng.uniform(0.6, 1.3) if together else 10 ** (rng.uniform(-7, 4) / 20)
        stems[stem, :, : audio.shape[1]] = audio[:, :length] * np.float32(gain)
    return stems


def batch(folder: SongFolder, size: int, length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return `size` examples: `(size, 4, 2, length)`."""
    return np.stack([example(folder, length, rng) for _ in range(size)])
