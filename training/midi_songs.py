"""Songs played on soundfonts, patches, sampled kits and FM, and sung by espeak-ng, flite and festival.

Training and held-out songs share no font, kit or voice: those of training are in `instruments`, `kits` and `sung`,
those of held-out songs are here.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.synth.song import Score, compose, level
from engine.synth.synthesizer import Audio, Note, pan_gains, reverb, samples
from training.instruments import FREEPATS, SF2, TRAINING_FONTS, play, player_of
from training.kits import MIDI_KITS, SAMPLED_KITS, drums_of
from training.midi import DRUM_CHANNEL, Part, drum_notes
from training.mixing import balanced
from training.sung import FESTIVAL_VOICES, HELD_OUT_LANGUAGES, HELD_OUT_VARIANTS, sing, training_voice

HELD_OUT_FONTS = (SF2 / "TimGM6mb.sf2", SF2 / "TimGM6mb.sf2", SF2 / "OPL-3_FM_128M.sf2")
HELD_OUT_KITS = (SF2 / "Black_Pearl_4_LV2.sf2", SF2 / "Red_Zeppelin_4_LV2.sf2")
BASSES = (32, 33, 33, 34, 35, 36, 37, 38, 39)
CHORDS = (
    0, 1, 2, 4, 5, 6, 7, 11, 16, 17, 18, 19, 21, 24, 25, 26, 27, 28, 29, 30, 48, 49, 50, 51, 61, 62, 63, 88, 89, 90, 95,
)  # fmt: skip
MELODIES = (
    0, 8, 9, 10, 11, 12, 13, 24, 25, 26, 29, 30, 40, 41, 42, 46, 56, 57, 60, 64, 65, 66, 68, 71, 73, 75, 80, 81, 104,
    105,
)  # fmt: skip


@dataclass(frozen=True)
class Sounds:
    """Soundfonts, kits and voices of a song. `kits`: sampled kits, used by half the songs if there are any."""

    fonts: tuple[Path, ...]
    kits: tuple[Path, ...]
    languages: tuple[str, ...]
    variants: tuple[str, ...]


HELD_OUT = Sounds(HELD_OUT_FONTS, HELD_OUT_KITS, HELD_OUT_LANGUAGES, HELD_OUT_VARIANTS)


def missing_programs(*, held_out_only: bool = False) -> list[str]:
    """Return the programs and files that are not installed (see training/README.md)."""
    programs = ["fluidsynth", "espeak-ng"]
    files = [*HELD_OUT_FONTS, *HELD_OUT_KITS]
    if not held_out_only:
        programs += ["timidity", "flite", "text2wave"]
        files += [*TRAINING_FONTS, FREEPATS, *FESTIVAL_VOICES.values()]
        files += [folder / name for folder, kit in SAMPLED_KITS for names in kit.values() for name in names]
    missing = [name for name in programs if shutil.which(name) is None]
    return missing + [str(path) for path in dict.fromkeys(files) if not path.exists()]


def midi_song(seed: int, duration_s: float = 20.0, sounds: Sounds | None = None) -> dict[str, Audio]:
    """Render a song from its seed, on `sounds` or, by default, on all training sounds."""
    rng = np.random.default_rng(seed)
    score = compose(rng, duration_s)
    n = samples(duration_s)
    if sounds is None:
        stems, voice = _training_band(score, n, rng), training_voice(rng)
    else:
        stems = _band(score, n, sounds, rng)
        voice = f"{rng.choice(sounds.languages)}+{rng.choice(sounds.variants)}"
    sung = sing(score.vocals, voice, n, rng) * pan_gains(float(rng.uniform(-0.1, 0.1)))[:, None]
    if rng.uniform() < 0.25:  # a second take, slightly later and panned
        take = sing(
            [Note(a.start_s + 0.02, a.length_s, a.midi + 0.05, a.velocity) for a in score.vocals], voice, n, rng
        )
        sung = sung + 0.6 * take * pan_gains(float(rng.choice([-0.7, 0.7])))[:, None]
    stems["vocals"] = sung
    return balanced({name: _with_effects(name, stem, rng) for name, stem in stems.items()}, rng)


def band_song(seed: int, duration_s: float = 8.0) -> dict[str, Audio]:
    """Render a short piece without vocals on training sounds; it is fast, so many sounds can be rendered."""
    rng = np.random.default_rng(seed)
    n = samples(duration_s)
    stems = {
        name: _with_effects(name, stem, rng) for name, stem in _training_band(compose(rng, duration_s), n, rng).items()
    }
    return balanced({**stems, "vocals": np.zeros((2, n), np.float32)}, rng)


def _with_effects(name: str, stem: Audio, rng: np.random.Generator) -> Audio:
    """Add reverberation, and light compression to half of the stems."""
    wet = {"drums": 0.06, "bass": 0.0, "other": 0.25, "vocals": 0.2}[name]
    stem = reverb(level(stem, 0.1), rng, decay_s=rng.uniform(0.3, 1.8), wet=wet * rng.uniform(0.2, 1.5))
    if rng.uniform() < 0.5:
        drive = rng.uniform(1, 4)
        stem = np.asarray(np.tanh(stem * drive) / drive, np.float32)
    return stem


def _training_band(score: Score, n: int, rng: np.random.Generator) -> dict[str, Audio]:
    """Render every part on a random instrument of any family."""
    other = player_of(rng, CHORDS)(score.chords, n)
    if score.melody:
        solo = level(player_of(rng, MELODIES)(score.melody, n), rng.uniform(0.05, 0.1))
        other = level(other, 0.1) + solo * pan_gains(float(rng.uniform(-0.6, 0.6)))[:, None]
    return {"drums": drums_of(rng, score.drums, n), "bass": player_of(rng, BASSES)(score.bass, n), "other": other}


def _band(score: Score, n: int, sounds: Sounds, rng: np.random.Generator) -> dict[str, Audio]:
    def font() -> Path:
        return sounds.fonts[rng.integers(len(sounds.fonts))]

    real_kit = bool(sounds.kits) and rng.uniform() < 0.5
    kit = sounds.kits[rng.integers(len(sounds.kits))] if real_kit else font()
    # the sampled real kits are ordinary instruments of their fonts, not on MIDI's drum channel
    notes = drum_notes(score.drums)
    drums = Part(0, 0, notes) if real_kit else Part(DRUM_CHANNEL, int(rng.choice(MIDI_KITS)), notes)
    bass = Part(0, int(rng.choice(BASSES)), score.bass)
    chords = Part(1, int(rng.choice(CHORDS)), score.chords)
    melody = Part(2, int(rng.choice(MELODIES)), score.melody)
    stems = {"drums": play([drums], kit, n), "bass": play([bass], font(), n), "other": play([chords], font(), n)}
    if score.melody:
        solo = level(play([melody], font(), n), 0.08)
        stems["other"] = level(stems["other"], 0.1) + solo * pan_gains(float(rng.uniform(-0.6, 0.6)))[:, None]
    return stems
