"""Instruments of training songs: soundfonts, the Freepats patches, and the project's synthesizers.

Each part gets a random player, so a song has sounds of several families. Soundfonts and patches need their Debian
packages (see training/README.md); the synthesizers need none.
"""

from __future__ import annotations

import subprocess
import tempfile
import wave
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.synth.synthesizer import SAMPLE_RATE, Audio, Note
from training.midi import Part, midi_file
from training.synths import SYNTHS

SF2, SF3 = Path("/usr/share/sounds/sf2"), Path("/usr/share/sounds/sf3")
TRAINING_FONTS = (
    SF2 / "FluidR3_GM.sf2",
    SF3 / "FluidR3Mono_GM.sf3",
    SF3 / "MuseScore_General_Lite.sf3",
    SF2 / "sf_GMbank.sf2",
)
FREEPATS = Path("/etc/timidity/freepats.cfg")
FREEPATS_TONES = Path("/usr/share/midi/freepats/Tone_000")

Player = Callable[[Sequence[Note], int], Audio]  # (notes, samples) to `(2, samples)`


def play(parts: Sequence[Part], font: Path, n: int) -> Audio:
    """Render the parts with FluidSynth, dry: `(2, n)`."""
    with tempfile.TemporaryDirectory() as folder:
        tune, out = Path(folder) / "a.mid", Path(folder) / "a.raw"
        tune.write_bytes(midi_file(parts))
        options = ["-ni", "-g", "0.4", "-R", "0", "-C", "0", "-o", "synth.dynamic-sample-loading=1"]
        raw = ["-T", "raw", "-O", "float", "-E", "little"]
        command = ["fluidsynth", *options, *raw, "-r", str(SAMPLE_RATE), "-F", str(out), str(font), str(tune)]
        subprocess.run(command, check=True, capture_output=True, timeout=900)
        audio = np.fromfile(out, "<f4").reshape(-1, 2).T
    return _of_length(audio, n)


def play_patches(parts: Sequence[Part], n: int) -> Audio:
    """Render the parts with TiMidity++ on the Freepats patches, dry: `(2, n)`."""
    with tempfile.TemporaryDirectory() as folder:
        tune, out = Path(folder) / "a.mid", Path(folder) / "a.wav"
        tune.write_bytes(midi_file(parts))
        options = ["-c", str(FREEPATS), "-EFreverb=0", "-EFchorus=0", "-A60", "--quiet"]
        command = ["timidity", *options, "-s", str(SAMPLE_RATE), "-Ow", "-o", str(out), str(tune)]
        subprocess.run(command, check=True, capture_output=True, timeout=900)
        with wave.open(str(out)) as file:
            audio = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T / 32768
    return _of_length(audio, n)


def _of_length(audio: NDArray[np.floating], n: int) -> Audio:
    return np.pad(audio, ((0, 0), (0, max(0, n - audio.shape[1]))))[:, :n].astype(np.float32)


def freepats_programs() -> set[int]:
    """Return the General MIDI programs of the Freepats patches."""
    return {int(path.name[:3]) for path in FREEPATS_TONES.glob("*.pat")}


def player_of(rng: np.random.Generator, programs: Sequence[int]) -> Player:
    """Return an instrument of a random program and training family."""
    kind = rng.choice(["font", "patches", "own"], p=[0.4, 0.1, 0.5])
    program = int(rng.choice(programs))
    if kind == "own":
        synth = SYNTHS[rng.integers(len(SYNTHS))]
        return lambda notes, n: synth(notes, n, rng, 32 <= program < 40)
    if kind == "patches" and (there := sorted(freepats_programs() & set(programs))):
        part = partial(Part, 0, int(rng.choice(there)))
        return lambda notes, n: play_patches([part(notes)], n)
    font = TRAINING_FONTS[rng.integers(len(TRAINING_FONTS))]
    return lambda notes, n: play([Part(0, program, notes)], font, n)
